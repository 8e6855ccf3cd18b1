//! The composition root: opens the stores, hands each room its capabilities, runs the
//! tasks of a role and drains them. Never decides anything about a payment.

mod capabilities;
mod role;
mod shutdown;
mod stores;

use std::{io, num::NonZeroU16, path::PathBuf, sync::Arc, thread, time::Duration, time::Instant};

use anyhow::{Context, bail};
use clap::Args;
use paystream_dev::DATABASE;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    callers::{self, Sources, Tokens},
    cli,
    config::{GatewayConfig, OperationsBind, Pooler, ServeConfig},
    console,
    http::{self, AppState, Door, Tls},
    ledger::{DATABASE_ROLES, Schema},
    monitor,
    operations::open_ledger,
    progress::Board,
    stream::permissions,
    telemetry::{LogLevel, Service, Signals, Telemetry},
    worker,
    worker_name::{self, WorkerName},
};
use capabilities::{Circuits, QUERIES};
pub use role::Role;
use shutdown::{drain, until_interrupted};
use stores::{Stores, is_outage};

/// Who does everything on the private servers that `paystream dev` starts.
const DEV_USER: &str = "paystream_dev";
/// Between two checks whether the topology is still the one served.
const TOPOLOGY_CHECK_EVERY: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Where the private Redis and PostgreSQL keep their data.
    #[arg(long, env = "PAYSTREAM_DEV_DIRECTORY", default_value = ".paystream")]
    pub directory: PathBuf,
    /// Customers to seed, GIG00001 being the first.
    #[arg(long, env = "PAYSTREAM_DEV_CUSTOMERS", default_value_t = 500)]
    pub customers: u32,
    #[command(flatten)]
    pub config: ServeConfig,
}

/// What runs tasks, on so many threads. Half of the processors by default: Redis and PostgreSQL need
/// some, and a task that wakes another of the same thread is cheap.
pub fn runtime(threads: Option<NonZeroU16>) -> anyhow::Result<Runtime> {
    let half = || thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2));
    let threads = threads.map_or_else(half, |threads| usize::from(threads.get()));
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.context("the threads of PAYSTREAM_THREADS could not be started")
}

/// Runs everything on this machine, with private servers, until interrupted.
pub async fn dev(args: DevArgs, level: LogLevel) -> anyhow::Result<()> {
    let mut config = args.config.check()?;
    let telemetry = start_telemetry(&config, Role::All, level)?;
    let rules = permissions::rules(&permissions::ROLES, &config.store.key_prefix);
    let servers = paystream_dev::Servers::start(&args.directory, &[(DEV_USER, rules)]).await?;
    let served = async {
        // Only this migrates, as the superuser; servers that happen to be configured are not
        // private.
        let (redis_url, database_url) = (servers.redis.url(), servers.postgres.url(DATABASE));
        config.store.replace(redis_url, database_url);
        config.store.ledger.database_pooler = Pooler::None;
        cli::migrate::run(&config.store).await?;
        let ledger = open_ledger(&config.store.ledger)?;
        ledger.schema().make_member(DEV_USER, servers.postgres.password()).await?;
        let addresses = servers.addresses(DEV_USER);
        servers.announce(&addresses)?;
        config.store.replace(addresses.redis_url, addresses.database_url);
        let nobody = cli::ActorArgs { actor: None };
        cli::seed::seed(&config.store, args.customers, nobody).await?;
        let listeners = bind(Role::All, &config).await?;
        servers.greet(config.gateway.bind, config.gateway.operators_bind());
        let signals = telemetry.signals.clone();
        let serving = |stop| serve_on(Role::All, config, signals, listeners, stop);
        until_interrupted(&telemetry.signals, true, serving).await
    };
    let served = served.await;
    servers.stop().await?;
    telemetry.shut_down();
    served
}

/// Serves in `role` until SIGTERM or SIGINT.
pub async fn serve(role: Role, config: ServeConfig, level: LogLevel) -> anyhow::Result<()> {
    let config = config.check()?;
    let telemetry = start_telemetry(&config, role, level)?;
    let listeners = bind(role, &config).await?;
    let signals = telemetry.signals.clone();
    let serving = |stop| serve_on(role, config, signals, listeners, stop);
    let served = until_interrupted(&telemetry.signals, false, serving).await;
    telemetry.shut_down();
    served
}

fn start_telemetry(config: &ServeConfig, role: Role, level: LogLevel) -> anyhow::Result<Telemetry> {
    let name = role.service_name();
    // New at each start: host and process id come again, and in containers all are 1.
    let instance = Uuid::now_v7().to_string();
    let (_, seed) = Uuid::now_v7().as_u64_pair();
    let host = worker_name::host();
    let telemetry =
        Telemetry::start(&config.export, Service { name, instance, host }, level, seed)?;
    telemetry.signals.begins(role.as_str(), Instant::now());
    Ok(telemetry)
}

/// Who may call, and what is shown to them, for as long as the process lives.
#[derive(Default)]
struct Known {
    tokens: Option<Arc<Tokens>>,
    sources: Arc<Sources>,
    tls: Option<Arc<Tls>>,
}

impl Known {
    fn read(config: &GatewayConfig) -> anyhow::Result<Self> {
        Ok(Self {
            tokens: capabilities::tokens(config)?,
            sources: capabilities::sources(config)?,
            tls: capabilities::tls(config)?,
        })
    }

    /// Uses what changes in the files, until `stop`.
    fn follow(
        &self,
        config: &GatewayConfig,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        stop: &CancellationToken,
    ) {
        if let Some((tokens, file)) = self.tokens.clone().zip(config.jwt_keys_file.clone()) {
            let take = move |text: &str| tokens.replace(text);
            tasks.spawn(callers::follow(file, "the key set", take, stop.clone()));
        }
        if let Some(file) = config.sources_file.clone() {
            let sources = Arc::clone(&self.sources);
            let take = move |text: &str| sources.replace(text);
            tasks.spawn(callers::follow(file, "the file of sources", take, stop.clone()));
        }
        if let Some(tls) = self.tls.clone() {
            tasks.spawn(tls.follow(stop.clone()));
        }
    }
}

/// Serves in `role` until `stop`: the gateway on `listeners`, if there are any.
/// When the number of partitions is changed, serves the new topology.
pub async fn serve_on(
    role: Role,
    config: ServeConfig,
    signals: Signals,
    listeners: Vec<(Door, TcpListener)>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listeners = listeners.into_iter().map(|(door, one)| one.into_std().map(|one| (door, one)));
    let listeners: Vec<_> = listeners.collect::<io::Result<_>>()?;
    let known = match listeners.is_empty() {
        true => Known::default(),
        false => Known::read(&config.gateway)?,
    };
    let mut has_served = false;
    while !stop.is_cancelled() {
        // Connections wait at the listener while the stores are opened anew.
        let clones = listeners
            .iter()
            .map(|(door, one)| Ok((*door, TcpListener::from_std(one.try_clone()?)?)))
            .collect::<io::Result<_>>()?;
        match serve_topology(role, &config, &known, &signals, clones, &stop).await {
            Ok(()) => has_served = true,
            // Whoever starts has perhaps named the wrong store; whoever has served waits for it.
            Err(error) if has_served && is_outage(&error) => {
                warn!("the new topology is not served yet: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Serves the topology as it is until `stop`, or until it is another.
async fn serve_topology(
    role: Role,
    config: &ServeConfig,
    known: &Known,
    signals: &Signals,
    listeners: Vec<(Door, TcpListener)>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let works = role.settles();
    let doors: Vec<Door> = listeners.iter().map(|(door, _)| *door).collect();
    let roles = database_roles(works, &doors);
    let opening = Stores::open(&config.store, &roles);
    let Some(stores) = stop.run_until_cancelled(opening).await else {
        return Ok(());
    };
    let stop = stop.child_token();
    let stores = stores?;
    stores.are_told_to(signals);
    let mut tasks = JoinSet::new();
    let circuits = Circuits::keep(&mut tasks, &stores, &stop).await?;
    let lanes = config.worker.lanes.saturating_mul(stores.server_count());
    let board = Arc::new(Board::new(lanes, config.worker.stall_limit, Instant::now()));
    let (streams, ended) = (stores.streams.clone(), stop.clone());
    tasks.spawn(async move {
        ended.run_until_cancelled(streams.follow()).await;
        Ok(())
    });
    let mut monitor = capabilities::monitor(role, config, &stores, &circuits, signals);
    // Its name stays taken for as long as it works.
    let mut identity = None;
    if works {
        let id = match &config.worker.worker_id {
            Some(id) => id,
            None => &identity.insert(WorkerName::take(&config.store.ledger.database_url()?)).name,
        };
        let mut worker =
            capabilities::worker(&config.worker, id, &stores, &circuits, &board, signals);
        worker.config.lanes = lanes;
        monitor.worker = Some((worker.id.clone(), Arc::clone(&board)));
        tasks.spawn(worker::run(worker, stop.clone()));
    }
    if !listeners.is_empty() {
        let board = works.then_some(board);
        let operations = Arc::clone(&monitor.operations);
        let settings = &config.gateway;
        let mut gateway =
            capabilities::gateway(settings, &stores, &circuits, board, operations, signals).await?;
        known.follow(settings, &mut tasks, &stop);
        (gateway.tokens, gateway.sources) = (known.tokens.clone(), Arc::clone(&known.sources));
        monitor.queries = Some((QUERIES, gateway.reader.clone()));
        let app = AppState::new(gateway, stop.clone());
        let (pages, looking) = console::open(Arc::clone(&app));
        tasks.spawn(looking);
        tasks.spawn(http::serve(app, pages, listeners, known.tls.clone()));
    } else if let Some(address) = config.worker.health_bind {
        tasks.spawn(http::serve_health(board, address, stop.clone()));
    }
    let worker = monitor.worker.as_ref().map(|(id, _)| id.clone());
    tasks.spawn(monitor::run(monitor, stores.ledger.rounds().of(worker), stop.clone()));
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
            // Told so since the first branch looked.
            Ok(()) if stop.is_cancelled() => Ok(()),
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
    let mut looks = interval(TOPOLOGY_CHECK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if schema.generation().await.is_ok_and(|now| now != generation) {
            return;
        }
    }
}

/// What a process does in the ledger, as roles of the database.
fn database_roles(works: bool, doors: &[Door]) -> Vec<&'static str> {
    let [gateway, worker, operations, _] = DATABASE_ROLES;
    let serves = |part: fn(Door) -> bool| doors.iter().any(|door| part(*door));
    let needed = [
        (serves(Door::has_payments), gateway),
        (works, worker),
        (serves(Door::has_operations), operations),
    ];
    needed.into_iter().filter_map(|(is_needed, role)| is_needed.then_some(role)).collect()
}

async fn bind(role: Role, config: &ServeConfig) -> anyhow::Result<Vec<(Door, TcpListener)>> {
    let GatewayConfig { bind, operations_bind, .. } = config.gateway;
    let public = (Door::Public, bind, "PAYSTREAM_BIND");
    let own = |address| (Door::Operations, address, "PAYSTREAM_OPERATIONS_BIND");
    let doors = match (role, operations_bind) {
        (Role::Worker, _) => vec![],
        (Role::Operations, Some(OperationsBind::At(address))) => vec![own(address)],
        (Role::Operations, Some(OperationsBind::Nowhere) | None) => {
            bail!("operators are served nowhere: set PAYSTREAM_OPERATIONS_BIND to an address")
        }
        (Role::All | Role::Gateway, None) => vec![(Door::All, bind, "PAYSTREAM_BIND")],
        (Role::All | Role::Gateway, Some(OperationsBind::Nowhere)) => vec![public],
        (Role::All | Role::Gateway, Some(OperationsBind::At(address))) => {
            vec![public, own(address)]
        }
    };
    let mut listeners = Vec::new();
    for (door, address, setting) in doors {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("could not listen on {address}; set {setting} to another address")
        })?;
        listeners.push((door, listener));
    }
    Ok(listeners)
}
