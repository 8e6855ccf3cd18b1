//! What each room is handed: its own part of the configuration, the halves of the
//! stores that it may hold, and the circuit breakers.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use secrecy::ExposeSecret;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use super::{
    role::Role,
    stores::{Stores, patiently},
};
use crate::{
    callers::{KeySet, Sources, TokenRules, Tokens},
    circuit_breaker::{self, CircuitBreaker},
    clock,
    config::{GatewayConfig, ServeConfig, WorkerConfig},
    http::{Gateway, Tls},
    ledger,
    monitor::Monitor,
    operations::{Operations, open_standby},
    progress::Board,
    stream::{self, AppendLimits, Gathering, RedisInfo, Streams, payments_held},
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
        let streams = &stores.streams;
        let upkeep = patiently("Redis", || streams.upkeep(), stream::Error::is_outage).await?;
        let reader = stores.ledger.reader(1);
        let (ledger, ended) = (stores.ledger.clone(), stop.clone());
        tasks.spawn(async move {
            ended.run_until_cancelled(ledger.keep_following()).await;
            Ok(())
        });
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
    role: Role,
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
        backlog_max: role.takes_payments().then_some(config.gateway.backlog_max),
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
    let connections = config.query_connections;
    let url = config.database_read_url.as_ref().map(ExposeSecret::expose_secret);
    let reader = match open_standby(&stores.config, url)? {
        Some(standby) => ledger.reader_beside(&standby, connections, config.read_lag_max),
        None => ledger.reader(connections),
    };
    let reader = reader.telling(QUERIES, signals.clone());
    let limits = AppendLimits {
        backlog_max: config.backlog_max,
        share_max: config.share_max(),
        dedupe_window: config.dedupe_window,
        deadline: config.append_deadline,
    };
    let is_away = stream::Error::is_outage;
    let producer = patiently("Redis", || streams.producer(limits), is_away).await?;
    tell_capacity(streams, config.dedupe_window).await;
    let cursors = patiently("PostgreSQL", || reader.cursors(), ledger::Error::is_outage).await?;
    // A Redis that counts on from below has lost something.
    for row in cursors {
        producer.expect(u16::try_from(row.partition)?, row.head_sequence);
    }
    let finder = patiently("Redis", || streams.finder(config.dedupe_window), is_away).await?;
    let balances = patiently("Redis", || streams.balances(config.balance_ttl), is_away).await?;
    Ok(Gateway {
        gathering: Gathering::new(producer.clone(), config.append_linger),
        producer,
        finder,
        reader,
        registrar: ledger.registrar(topology),
        sessions: ledger.sessions(),
        balances,
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

/// Logs for how many payments a second the memory of Redis suffices, where it is limited.
async fn tell_capacity(streams: &Streams, dedupe_window: Duration) {
    let memory = async { streams.upkeep().await?.redis_info().await };
    // A start does not depend on what is only logged.
    let Ok::<RedisInfo, stream::Error>(memory) = memory.await else { return };
    if memory.limit > 0 {
        let payments_a_second = payments_held(memory.limit, dedupe_window);
        info!(payments_a_second, maxmemory = memory.limit, "capacity of Redis computed");
    }
}
