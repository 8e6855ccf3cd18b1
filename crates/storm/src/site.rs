//! Everything that runs in a storm: stores, processes, the network between them, and what is
//! noted of it all. Never makes a fault, and never judges.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use paystream_dev::Port;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    args::{Args, Topology},
    bank::{Api, Records},
    clock::Clocks,
    disk::Disks,
    fault::{Fault, Kind},
    process::{Process, Program, beside},
    proxy::{Line, Proxy},
    stores::{GATEWAY, MIGRATE, OPERATIONS, Stores, WORKER, directories},
};

pub(crate) const GATEWAYS: usize = 2;
pub(crate) const WORKERS: usize = 3;
/// Partitions in the beginning.
pub(crate) const PARTITIONS: u16 = 8;
/// How long anything may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    pub(crate) stores: Stores,
    pub(crate) disks: Disks,
    pub(crate) clocks: Clocks,
    pub(crate) program: Program,
    /// Gateways first.
    pub(crate) processes: Vec<Process>,
    /// Where gateways listen, also after they have ended.
    _ports: Vec<Port>,
    /// What of the network can be disturbed.
    pub(crate) lines: Vec<Line>,
    pub(crate) api: Api,
    pub(crate) records: Records,
    pub(crate) began: Instant,
    timeline: Mutex<Vec<(Duration, String)>>,
    /// What should not have happened at all, whatever the payments say.
    troubles: Mutex<Vec<String>>,
    pub(crate) seed: u64,
}

impl Site {
    /// Disks and clocks of their own are only where `faults` need them.
    pub(crate) async fn build(
        args: &Args,
        seed: u64,
        folder: PathBuf,
        faults: &[Fault],
    ) -> Result<Arc<Self>> {
        let has = |kinds: &[Kind]| faults.iter().any(|fault| kinds.contains(&fault.kind));
        let fills = has(&[Kind::FillDiskPostgres, Kind::FillDiskRedis]);
        let directories = if fills { directories(args.topology, &folder) } else { Vec::new() };
        let disks = Disks::mount(&directories);
        let clocks = Clocks::find(&folder, has(&[Kind::StepClock]))?;
        let (stores, mut lines) =
            Stores::start(args.topology, &folder, in_step(seed), &clocks).await?;
        let binary = args.binary.clone().map_or_else(beside, Ok)?.canonicalize()?;
        let settings = settings(seed, args.topology);
        let program = Program { binary, folder: folder.clone(), settings };
        let partitions = PARTITIONS.to_string();
        let migrate = ["migrate", "--partitions", &partitions];
        // Streams are created by an operator, tables by their owner.
        let mut urls = stores.direct_urls(OPERATIONS);
        urls.truncate(1);
        urls.extend(stores.direct_urls(MIGRATE).into_iter().skip(1));
        let migrated = program.run(&migrate, &urls).await?;
        if !migrated.status.success() {
            bail!("could not migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        }
        let (mut processes, mut gateways, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..GATEWAYS + WORKERS {
            let (role, name) = match number {
                0..GATEWAYS => (GATEWAY, format!("gateway-{}", number + 1)),
                _ => (WORKER, format!("worker-{}", number - GATEWAYS + 1)),
            };
            let (mut settings, own_lines) = ways(&stores, role, &name).await?;
            lines.extend(own_lines);
            if role == GATEWAY {
                let port = Port::choose(None, seed.wrapping_add(u64::try_from(number)?))?;
                let address = format!("127.0.0.1:{}", port.number());
                ports.push(port);
                gateways.push(format!("http://{address}"));
                settings.push(("PAYSTREAM_BIND".to_owned(), address));
                settings.push(("PAYSTREAM_OPERATIONS_BIND".to_owned(), "none".to_owned()));
            } else {
                settings.push(("PAYSTREAM_WORKER_ID".to_owned(), name.clone()));
            }
            settings.extend(clocks.environment(&name)?);
            processes.push(Process::start(&program, &name, &["serve", role], settings).await?);
        }
        let api = Api::new(gateways);
        let site = Arc::new(Self {
            folder,
            stores,
            disks,
            clocks,
            program,
            processes,
            _ports: ports,
            lines,
            api,
            records: Records::default(),
            began: Instant::now(),
            timeline: Mutex::default(),
            troubles: Mutex::default(),
            seed,
        });
        site.until_ready().await?;
        Ok(site)
    }

    /// Whether this machine lets us have what such a fault needs.
    pub(crate) fn can_make(&self, kind: Kind) -> bool {
        let fills = matches!(kind, Kind::FillDiskPostgres | Kind::FillDiskRedis);
        let is_clock = kind == Kind::StepClock;
        (!fills || self.disks.exist()) && (!is_clock || self.clocks.exist())
    }

    pub(crate) fn gateways(&self) -> &[Process] {
        self.processes.get(..GATEWAYS).unwrap_or_default()
    }

    pub(crate) fn workers(&self) -> &[Process] {
        self.processes.get(GATEWAYS..).unwrap_or_default()
    }

    /// Opens these accounts, so large that no payment is beyond them.
    pub(crate) async fn open_accounts(&self, customers: &[String]) -> Result<()> {
        for customer in customers {
            let body = json!({
                "customer_id": customer, "asset_value": "1000000000", "term_weeks": 50
            });
            let opened = self.api.send(0, Method::POST, "/api/v1/customers", Some(&body)).await;
            match opened.with_context(|| format!("could not open an account for {customer}"))? {
                (201, _) => {}
                (status, body) => bail!("an account for {customer} was answered {status}: {body}"),
            }
        }
        Ok(())
    }

    /// Waits until every gateway says that it is ready.
    pub(crate) async fn until_ready(&self) -> Result<()> {
        let end = Instant::now() + READY_TIMEOUT;
        for gateway in 0..GATEWAYS {
            loop {
                match self.api.send(gateway, Method::GET, "/readyz", None).await {
                    Ok((200, _)) => break,
                    Err(error) if Instant::now() > end => {
                        return Err(error.context(format!("gateway {} is not ready", gateway + 1)));
                    }
                    said if Instant::now() > end => {
                        bail!("gateway {} is not ready: {said:?}", gateway + 1)
                    }
                    Ok(_) | Err(_) => sleep(PAUSE).await,
                }
            }
        }
        Ok(())
    }

    /// An operator's command; its exit status and what it printed.
    pub(crate) async fn operate(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let mut settings = self.stores.direct_urls(OPERATIONS);
        settings.push(("PAYSTREAM_ACTOR".to_owned(), "storm".to_owned()));
        let output = self.program.run(arguments, &settings).await?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said += &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), said))
    }

    /// Changes the number of partitions; the exit status and the last that was said. A store may
    /// be away meanwhile: then it has to be done again.
    pub(crate) async fn resize(&self, partitions: &str) -> Result<(Option<i32>, String)> {
        let resize = ["topology", "resize", "--drain-timeout", "30s", "--reason", "storm"];
        let (status, said) =
            self.operate(&[&resize[..], &["--partitions", partitions]].concat()).await?;
        Ok((status, said.lines().last().unwrap_or_default().to_owned()))
    }

    /// Notes what happened.
    pub(crate) fn note(&self, what: String) {
        let at = self.began.elapsed();
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner).push((at, what));
    }

    /// Notes what should not have happened.
    pub(crate) fn trouble(&self, what: String) {
        self.note(format!("TROUBLE: {what}"));
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        troubles.extend(self.records.hold().strange.iter().cloned());
        troubles
    }

    pub(crate) fn timeline(&self) -> Vec<(Duration, String)> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops what runs; each process must end well.
    pub(crate) async fn stop(&self) {
        for process in &self.processes {
            if let Err(error) = process.lock().await.stop().await {
                self.trouble(format!("{error:#}"));
            }
        }
    }
}

/// A process's own ways to the stores: what it is told of them, and what can be disturbed.
async fn ways(
    stores: &Stores,
    role: &str,
    name: &str,
) -> Result<(Vec<(String, String)>, Vec<Line>)> {
    let mut lines = Vec::new();
    let mut redis_port = stores.redis.all[0].port;
    // Where it has several servers, all processes are told the same addresses by Redis.
    if stores.redis.topology == Topology::Single {
        let redis = Proxy::before(redis_port).await?;
        redis_port = redis.port;
        lines.push(Line::new(format!("{name} to Redis"), vec![redis]));
    }
    let [first, second] = stores.postgres_ports;
    let proxies = [Proxy::before(first).await?, Proxy::before(second).await?];
    let settings = stores.urls(role, redis_port, [proxies[0].port, proxies[1].port]);
    lines.push(Line::new(format!("{name} to PostgreSQL"), proxies.into()));
    Ok((settings, lines))
}

fn bit(seed: u64, place: u32) -> bool {
    seed >> place & 1 == 1
}

/// Whether commits wait for PostgreSQL's standby.
pub(crate) fn in_step(seed: u64) -> bool {
    bit(seed, 4)
}

/// Settings of all processes that follow from the seed: what is remembered and kept only briefly
/// shows other faults than what is kept for long.
fn settings(seed: u64, topology: Topology) -> Vec<(String, String)> {
    let choose = |place: u32, one: &'static str, other: &'static str| {
        if bit(seed, place) { other } else { one }
    };
    let durability = match topology {
        Topology::Single => "disk",
        Topology::Sentinel | Topology::Cluster => choose(5, "replicated", "disk"),
    };
    let settings = [
        ("PAYSTREAM_DEDUPE_WINDOW", choose(0, "15m", "11s")),
        ("PAYSTREAM_LANES", choose(1, "4", "1")),
        ("PAYSTREAM_BATCH_MAX", choose(2, "2000", "20")),
        ("PAYSTREAM_DURABILITY", durability),
        ("PAYSTREAM_TRIM_INTERVAL", choose(3, "2s", "200ms")),
        ("PAYSTREAM_LOG_FORMAT", "json"),
        ("PAYSTREAM_AUDIT_PACE", "0"),
    ];
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// What `GET` of this path says, from any gateway that answers.
pub(crate) async fn get(site: &Site, path: &str) -> Result<Value> {
    let end = Instant::now() + READY_TIMEOUT;
    let mut gateway = 0;
    loop {
        match site.api.send(gateway, Method::GET, path, None).await {
            Ok((200, body)) => return Ok(body),
            said if Instant::now() > end => bail!("{path} was answered {said:?}"),
            Ok(_) | Err(_) => sleep(PAUSE).await,
        }
        gateway += 1;
    }
}
