//! What each room is handed: its own part of the configuration, the halves of the
//! stores that it may hold, and the circuit breakers.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::stores::Stores;
use crate::{
    callers::{KeySet, Sources, TokenRules, Tokens},
    circuit_breaker::{self, CircuitBreaker},
    clock,
    config::{GatewayConfig, ServeConfig, WorkerConfig},
    http::{Gateway, Tls},
    monitor::Monitor,
    operations::Operations,
    progress::Board,
    stream::AppendLimits,
    telemetry::Signals,
    worker::Worker,
};

/// The pool of connections to PostgreSQL that the gateway's queries share.
pub(super) const QUERIES: &str = "queries";

pub(super) struct Circuits {
    redis: Arc<CircuitBreaker>,
    postgresql: Arc<CircuitBreaker>,
}

impl Circuits {
    /// Closed circuit breakers, and the tasks that probe them when they open.
    pub(super) async fn keep(
        tasks: &mut JoinSet<anyhow::Result<()>>,
        stores: &Stores,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let redis = Arc::new(match stores.streams.are_in_a_cluster() {
            true => CircuitBreaker::of_several(circuit_breaker::REDIS),
            false => CircuitBreaker::new(circuit_breaker::REDIS),
        });
        let postgresql = Arc::new(CircuitBreaker::new(circuit_breaker::POSTGRESQL));
        let upkeep = stores.streams.upkeep().await.context("could not reach Redis")?;
        let reader = stores.ledger.reader(1);
        let (kept, ended) = (Arc::clone(&redis), stop.clone());
        tasks.spawn(async move {
            let probe = async || upkeep.ping().await.is_ok();
            ended.run_until_cancelled(kept.keep(probe)).await;
            Ok(())
        });
        let (kept, ended) = (Arc::clone(&postgresql), stop.clone());
        tasks.spawn(async move {
            let probe = async || reader.open_losses().await.is_ok();
            ended.run_until_cancelled(kept.keep(probe)).await;
            Ok(())
        });
        Ok(Self { redis, postgresql })
    }
}

pub(super) fn worker(
    config: &WorkerConfig,
    id: &str,
    stores: &Stores,
    circuits: &Circuits,
    board: &Arc<Board>,
    signals: &Signals,
) -> Worker {
    Worker {
        id: id.to_owned(),
        incarnation: Uuid::now_v7().to_string(),
        config: config.clone(),
        generation: stores.topology.generation,
        streams: stores.streams.clone(),
        ledger: stores.ledger.clone(),
        redis: Arc::clone(&circuits.redis),
        postgresql: Arc::clone(&circuits.postgresql),
        board: Arc::clone(board),
        signals: signals.clone(),
    }
}

pub(super) fn monitor(
    config: &ServeConfig,
    Stores { streams, ledger, topology, .. }: &Stores,
    circuits: &Circuits,
    signals: &Signals,
) -> Monitor {
    let operations = Operations::new(streams, ledger, topology, clock::system)
        .with_dedupe_window(config.gateway.dedupe_window)
        .with_signals(signals.clone());
    Monitor {
        operations: Arc::new(operations),
        queries: None,
        redis: Arc::clone(&circuits.redis),
        postgresql: Arc::clone(&circuits.postgresql),
        worker: None,
        audit_pace: config.audit_pace,
        signals: signals.clone(),
    }
}

/// None where the gateway does not speak TLS.
pub(super) fn tls(config: &GatewayConfig) -> anyhow::Result<Option<Arc<Tls>>> {
    let files = config.tls.files();
    let tls = (!files.is_empty()).then(|| Tls::open(files)).transpose();
    Ok(tls.map_err(anyhow::Error::msg)?.map(Arc::new))
}

/// None where no caller has an access token.
pub(super) fn tokens(config: &GatewayConfig) -> anyhow::Result<Option<Arc<Tokens>>> {
    let Some(file) = &config.jwt_keys_file else { return Ok(None) };
    let keys = KeySet::read(file)
        .map_err(|error| anyhow!("PAYSTREAM_JWT_KEYS_FILE {}: {error}", file.display()))?;
    let rules = TokenRules {
        issuer: config.jwt_issuer.clone().context("PAYSTREAM_JWT_ISSUER is not set")?,
        audience: config.jwt_audience.clone(),
        lifetime_max: config.jwt_lifetime_max,
    };
    Ok(Some(Arc::new(Tokens::new(rules, keys))))
}

pub(super) fn sources(config: &GatewayConfig) -> anyhow::Result<Arc<Sources>> {
    let Some(file) = &config.sources_file else { return Ok(Arc::default()) };
    let sources = Sources::read(file)
        .map_err(|error| anyhow!("PAYSTREAM_SOURCES_FILE {}: {error}", file.display()))?;
    Ok(Arc::new(sources))
}

pub(super) async fn gateway(
    config: &GatewayConfig,
    stores: &Stores,
    circuits: &Circuits,
    board: Option<Arc<Board>>,
    operations: Arc<Operations>,
    signals: &Signals,
) -> anyhow::Result<Gateway> {
    let Stores { streams, ledger, topology, .. } = stores;
    let reader = ledger.reader(config.query_connections).telling(QUERIES, signals.clone());
    let limits = AppendLimits {
        backlog_max: config.backlog_max,
        share_max: config.share_max(),
        dedupe_window: config.dedupe_window,
        deadline: config.append_deadline,
    };
    let producer = streams.producer(limits).await.context("could not reach Redis")?;
    // A Redis that counts on from below has lost something.
    for row in reader.cursors().await? {
        producer.expect(u16::try_from(row.partition)?, row.head_sequence);
    }
    Ok(Gateway {
        producer,
        finder: streams.finder(config.dedupe_window).await.context("could not reach Redis")?,
        reader,
        registrar: ledger.registrar(topology),
        sessions: ledger.sessions(),
        balances: streams.balances(config.balance_ttl).await.context("could not reach Redis")?,
        operations,
        redis: Arc::clone(&circuits.redis),
        postgresql: Arc::clone(&circuits.postgresql),
        board,
        signals: signals.clone(),
        config: config.clone(),
        tokens: None,
        sources: Arc::default(),
        clock: clock::system,
    })
}
