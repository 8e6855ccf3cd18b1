//! The composition root: checks what must be safe, connects, hands each room
//! its capabilities, runs, and drains.

use std::{path::PathBuf, sync::Arc, time::Duration, time::Instant};

use anyhow::{Context, bail};
use backon::{ExponentialBuilder, Retryable};
use clap::{Args, ValueEnum};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    circuit_breaker::{self, CircuitBreaker},
    cli, clock,
    config::{ServeConfig, StoreConfig},
    console,
    http::{self, Gateway, Shared},
    ledger::{Ledger, Schema, Topology},
    monitor::{self, Monitor},
    operations::Operations,
    progress::Board,
    stream::{AppendLimits, Streams},
    telemetry::{LogLevel, Service, Signals, Telemetry},
    worker::{self, Worker},
    worker_name::{self, WorkerName},
};

/// The pool of connections to PostgreSQL that the gateway's queries share.
const QUERIES: &str = "queries";
/// Between two looks at whether the topology is still the one served.
const LOOK_AT_TOPOLOGY: Duration = Duration::from_secs(1);
/// How long a start waits for Redis and PostgreSQL.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Gateway and worker in one process.
    All,
    /// Takes payments over HTTP.
    Gateway,
    /// Settles payments in the ledger.
    Worker,
}

/// Settings of a development run.
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Where the private Redis and PostgreSQL keep their data.
    #[arg(long, env = "PAYSTREAM_DEV_DIRECTORY", default_value = ".paystream")]
    pub directory: PathBuf,
    /// Customers to seed, GIG00001 being the first.
    #[arg(long, env = "PAYSTREAM_DEV_CUSTOMERS", default_value_t = 500)]
    pub customers: u32,
    #[command(flatten)]
    pub(crate) config: ServeConfig,
}

/// Runs everything on this machine, with private servers, until interrupted.
///
/// # Errors
/// When a server does not start, or serving fails.
pub async fn dev(args: DevArgs, level: LogLevel) -> anyhow::Result<()> {
    let mut config = args.config.check()?;
    let telemetry = start_telemetry(&config, Role::All, level)?;
    // Servers that happen to be configured are not private.
    (config.store.redis_url, config.store.ledger.database_url) = (None, None);
    let servers = paystream_dev::Servers::start(&args.directory).await?;
    let addresses = servers.addresses();
    config.store = config.store.or(Some((addresses.redis_url, addresses.database_url)));
    let served = async {
        cli::migrate::run(&config.store).await?;
        let nobody = cli::Actor { actor: None };
        cli::seed::seed(&config.store, args.customers, nobody).await?;
        let listener = bind(&config).await?;
        servers.greet(config.gateway.bind);
        let signals = telemetry.signals.clone();
        let serving = |stop| serve_on(Role::All, config, signals, Some(listener), stop);
        until_interrupted(&telemetry.signals, serving).await
    };
    let served = served.await;
    servers.stop().await?;
    telemetry.shut_down();
    served
}

/// Serves in `role` until SIGTERM or SIGINT.
///
/// # Errors
/// When something is unsafe or missing at the start, or a task ends by itself.
pub async fn serve(role: Role, config: ServeConfig, level: LogLevel) -> anyhow::Result<()> {
    let config = config.check()?;
    let telemetry = start_telemetry(&config, role, level)?;
    let listener = if role == Role::Worker { None } else { Some(bind(&config).await?) };
    let signals = telemetry.signals.clone();
    let serving = |stop| serve_on(role, config, signals, listener, stop);
    let served = until_interrupted(&telemetry.signals, serving).await;
    telemetry.shut_down();
    served
}

/// Starts to say what happens here.
fn start_telemetry(config: &ServeConfig, role: Role, level: LogLevel) -> anyhow::Result<Telemetry> {
    let name = match role {
        Role::All => "paystream",
        Role::Gateway => "paystream-gateway",
        Role::Worker => "paystream-worker",
    };
    let instance = format!("{}-{}", worker_name::host(), std::process::id());
    let (_, seed) = Uuid::now_v7().as_u64_pair();
    Telemetry::start(&config.export, Service { name, instance }, level, seed)
}

/// Serves in `role` until `stop`: the gateway on `listener`, if there is one.
/// When the number of partitions is changed, serves the new topology.
///
/// # Errors
/// As [`serve`], or when the stop takes longer than its grace.
pub async fn serve_on(
    role: Role,
    config: ServeConfig,
    signals: Signals,
    listener: Option<TcpListener>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = listener.map(TcpListener::into_std).transpose()?;
    while !stop.is_cancelled() {
        // Connections wait at the listener while the stores are opened anew.
        let listener = listener.as_ref().map(std::net::TcpListener::try_clone).transpose()?;
        let listener = listener.map(TcpListener::from_std).transpose()?;
        serve_topology(role, &config, &signals, listener, &stop).await?;
    }
    Ok(())
}

/// Serves the topology as it is until `stop`, or until it is another.
async fn serve_topology(
    role: Role,
    config: &ServeConfig,
    signals: &Signals,
    listener: Option<TcpListener>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(stores) = stop.run_until_cancelled(open_stores(&config.store)).await else {
        return Ok(());
    };
    let stop = stop.child_token();
    let stores = stores?;
    let mut tasks = JoinSet::new();
    let circuits = keep_circuits(&mut tasks, &stores, &stop).await?;
    let lanes = config.worker.lanes;
    let board = Arc::new(Board::new(lanes, config.worker.stall_limit, Instant::now()));
    let works = role != Role::Gateway;
    let mut monitor = monitor(config, &stores, &circuits, signals);
    // Its name stays taken for as long as it works.
    let mut identity = None;
    if works {
        let id = match &config.worker.worker_id {
            Some(id) => id,
            None => &identity.insert(WorkerName::take(config.store.ledger.database_url()?)).name,
        };
        let worker = worker(config, id, &stores, &circuits, &board, signals);
        monitor.worker = Some((worker.id.clone(), Arc::clone(&board)));
        tasks.spawn(worker::run(worker, stop.clone()));
    }
    if let Some(listener) = listener {
        let board = works.then_some(board);
        let operations = Arc::clone(&monitor.operations);
        let gateway = gateway(config, &stores, &circuits, board, operations, signals).await?;
        monitor.queries = Some((QUERIES, gateway.reader.clone()));
        let app = Shared::new(gateway, stop.clone());
        let (pages, looking) = console::open(Arc::clone(&app));
        tasks.spawn(looking);
        tasks.spawn(http::serve(app, pages, listener));
    } else if let Some(address) = config.worker.health_bind {
        tasks.spawn(http::serve_health(board, address, stop.clone()));
    }
    tasks.spawn(monitor::run(monitor, stores.ledger.rounds(), stop.clone()));
    let schema = stores.ledger.schema();
    let ended = tokio::select! {
        // Tasks that were told to stop may have ended by now.
        biased;
        () = stop.cancelled() => Ok(()),
        () = another_topology(&schema, stores.topology.generation) => {
            warn!("the number of partitions was changed; serving the new topology");
            Ok(())
        }
        Some(ended) = tasks.join_next() => match ended.context("a task failed")? {
            Ok(()) => Err(anyhow::anyhow!("a task ended before it was told to stop")),
            Err(error) => Err(error),
        },
    };
    info!("stopping");
    stop.cancel();
    drain(tasks, config.shutdown_grace).await?;
    ended
}

/// Returns once the topology is of another generation. Outages are waited out.
async fn another_topology(schema: &Schema, generation: i32) {
    let mut looks = interval(LOOK_AT_TOPOLOGY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if schema.generation().await.is_ok_and(|now| now != generation) {
            return;
        }
    }
}

/// Where payments go, and how the stream is cut.
struct Stores {
    streams: Streams,
    ledger: Ledger,
    topology: Topology,
}

/// Connects, and refuses what must not be trusted with payments.
async fn open_stores(store: &StoreConfig) -> anyhow::Result<Stores> {
    let ledger = Ledger::new(store.ledger.database_url()?)
        .context("PAYSTREAM_DATABASE_URL is not a valid URL")?;
    // What Redis is allowed to be does not depend on the topology.
    let streams = |partitions, generation| {
        Streams::new(store.redis_url()?, &store.key_prefix, partitions, generation)
            .context("PAYSTREAM_REDIS_URL is not a valid URL")
    };
    let any = streams(1, 1)?;
    let found = patiently("Redis", || any.unsafe_settings(), crate::stream::Error::is_outage);
    let found = found.await?;
    if let Some(reason) = found.replica.or(found.evicts) {
        bail!("this Redis is not safe for payments: {reason}");
    }
    match found.loses {
        Some(reason) if store.allow_unsafe_redis => warn!(reason, "an unsafe Redis is allowed"),
        Some(reason) => bail!(
            "this Redis is not safe for payments: {reason}, or start with --allow-unsafe-redis and \
             accept that loss"
        ),
        None => {}
    }
    let schema = ledger.schema();
    let is_outage = crate::ledger::Error::is_outage;
    let found = patiently("PostgreSQL", || schema.unsafe_setting(), is_outage).await?;
    if let Some(reason) = found {
        bail!("this PostgreSQL is not safe for payments: {reason}");
    }
    patiently("PostgreSQL", || schema.check(), is_outage).await?;
    let topology = schema.topology(store.partitions, &store.key_prefix).await?;
    let topology = topology.in_currency(store.currency.as_deref())?;
    if !topology.provisioned {
        bail!("the streams have not been created: run `paystream migrate`");
    }
    let streams = streams(topology.partitions, topology.generation)?.confirmed_by(schema.asking());
    let streams = match store.allow_unsafe_redis {
        true => streams,
        false => streams.insisting_on_safety(),
    };
    // Only for looking while the ledger is away.
    if let Err(error) = streams.note_topology(topology.generation).await {
        warn!(%error, "could not note the topology in Redis");
    }
    Ok(Stores { streams, ledger, topology })
}

/// Asks again while something is away, for as long as a start may wait.
async fn patiently<T, E, F, A>(what: &str, ask: F, is_outage: fn(&E) -> bool) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
    F: FnMut() -> A,
    A: Future<Output = Result<T, E>>,
{
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_total_delay(Some(START_PATIENCE))
        .without_max_times();
    let notify = |error: &E, _| warn!("waiting for {what}: {error}");
    let asking = ask.retry(pauses).when(is_outage).notify(notify);
    asking.await.with_context(|| format!("could not start with this {what}"))
}

async fn bind(config: &ServeConfig) -> anyhow::Result<TcpListener> {
    let address = config.gateway.bind;
    TcpListener::bind(address).await.with_context(|| {
        format!("could not listen on {address}; set PAYSTREAM_BIND to another address")
    })
}

/// The circuits of Redis and PostgreSQL, in this order.
type Circuits = (Arc<CircuitBreaker>, Arc<CircuitBreaker>);

/// Closed circuits, and the tasks that close them again when they open.
async fn keep_circuits(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stores: &Stores,
    stop: &CancellationToken,
) -> anyhow::Result<Circuits> {
    let redis = Arc::new(CircuitBreaker::new(circuit_breaker::REDIS));
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
    Ok((redis, postgresql))
}

fn worker(
    config: &ServeConfig,
    id: &str,
    stores: &Stores,
    (redis, postgresql): &Circuits,
    board: &Arc<Board>,
    signals: &Signals,
) -> Worker {
    Worker {
        id: id.to_owned(),
        incarnation: Uuid::now_v7().to_string(),
        config: config.worker.clone(),
        generation: stores.topology.generation,
        streams: stores.streams.clone(),
        ledger: stores.ledger.clone(),
        redis: Arc::clone(redis),
        postgresql: Arc::clone(postgresql),
        board: Arc::clone(board),
        signals: signals.clone(),
    }
}

fn monitor(
    config: &ServeConfig,
    Stores { streams, ledger, topology }: &Stores,
    (redis, postgresql): &Circuits,
    signals: &Signals,
) -> Monitor {
    let operations = Operations::new(streams, ledger, topology, clock::system)
        .with_dedupe_window(config.gateway.dedupe_window)
        .with_signals(signals.clone());
    Monitor {
        operations: Arc::new(operations),
        queries: None,
        redis: Arc::clone(redis),
        postgresql: Arc::clone(postgresql),
        worker: None,
        audit_pace: config.audit_pace,
        signals: signals.clone(),
    }
}

async fn gateway(
    config: &ServeConfig,
    stores: &Stores,
    (redis, postgresql): &Circuits,
    board: Option<Arc<Board>>,
    operations: Arc<Operations>,
    signals: &Signals,
) -> anyhow::Result<Gateway> {
    let Stores { streams, ledger, topology } = stores;
    let settings = &config.gateway;
    let reader = ledger.reader(settings.query_connections).telling(QUERIES, signals.clone());
    let limits = AppendLimits {
        backlog_max: settings.backlog_max,
        dedupe_window: settings.dedupe_window,
        deadline: settings.append_deadline,
    };
    let producer = streams.producer(limits).await.context("could not reach Redis")?;
    // A Redis that counts on from below has lost something.
    for row in reader.cursors().await? {
        producer.expect(u16::try_from(row.partition)?, row.head_sequence);
    }
    Ok(Gateway {
        producer,
        finder: streams.finder(settings.dedupe_window).await.context("could not reach Redis")?,
        reader,
        registrar: ledger.registrar(topology),
        balances: streams.balances(settings.balance_ttl).await.context("could not reach Redis")?,
        upkeep: streams.upkeep().await.context("could not reach Redis")?,
        operations,
        redis: Arc::clone(redis),
        postgresql: Arc::clone(postgresql),
        board,
        signals: signals.clone(),
        config: settings.clone(),
        clock: clock::system,
    })
}

/// Runs until it has ended by itself, or has been stopped by SIGTERM or SIGINT.
/// A second signal does not wait for the end. SIGUSR1 changes how much is logged.
async fn until_interrupted<F, R>(signals: &Signals, run: F) -> anyhow::Result<()>
where
    F: FnOnce(CancellationToken) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    let stop = CancellationToken::new();
    let stopping = async {
        interrupted().await?;
        stop.cancel();
        interrupted().await?;
        bail!("stopped at once by a second signal")
    };
    let listening = async {
        let mut asked =
            signal(SignalKind::user_defined1()).context("could not watch for SIGUSR1")?;
        while asked.recv().await.is_some() {
            signals.toggle_log_level();
        }
        std::future::pending().await
    };
    tokio::select! {
        ended = run(stop.clone()) => ended,
        ended = stopping => ended,
        ended = listening => ended,
    }
}

/// Waits for SIGTERM or SIGINT.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("could not watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not watch for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits until every task has ended, for as long as a stop may take.
async fn drain(mut tasks: JoinSet<anyhow::Result<()>>, grace: Duration) -> anyhow::Result<()> {
    let ending = async {
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task failed")??;
        }
        anyhow::Ok(())
    };
    timeout(grace, ending).await.with_context(|| {
        format!(
            "the stop took longer than PAYSTREAM_SHUTDOWN_GRACE ({grace:?}); what was accepted is \
             safe in the stream"
        )
    })?
}
