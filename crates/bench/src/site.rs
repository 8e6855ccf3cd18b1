//! What is measured: private stores as shipped, a gateway and workers as processes of their own.
//! Never sends a payment.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use paystream_dev::{DATABASE, Port, Servers};
use paystream_load::ProcessTimes;
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgPool};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::scenario::Scenario;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// Payments that a statement puts into the ledger.
const FILLED_AT_ONCE: u32 = 50_000;
/// What a process may know of our environment. Unoptimised code needs the stack.
const KEPT: [&str; 2] = ["PATH", "RUST_MIN_STACK"];

/// A program, and how it is set up.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Build {
    /// In the report.
    pub(crate) name: &'static str,
    pub(crate) binary: PathBuf,
    pub(crate) settings: Vec<(String, String)>,
}

impl Build {
    /// Refuses settings that the program does not have: they would change nothing.
    pub(crate) async fn check(&self) -> Result<()> {
        let help = Command::new(&self.binary).args(["serve", "all", "--help"]).output().await?;
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        for (name, _) in &self.settings {
            let is_one = help.contains(&format!("[env: {name}="))
                || help.contains(&format!("[env: {name}]"));
            ensure!(is_one, "--setting {name}: `paystream serve` has no such setting");
        }
        Ok(())
    }
}

pub(crate) struct Site {
    pub(crate) build: Build,
    folder: PathBuf,
    servers: Servers,
    pub(crate) url: String,
    pub(crate) operations_url: String,
    gateway: Child,
    workers: Vec<Child>,
    /// Where the gateway listens.
    _ports: [Port; 2],
    /// The ledger, past paystream.
    ledger: PgPool,
}

/// A moment of the ledger.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Mark {
    entries: i64,
    at: String,
}

/// What the ledger has of payments that came since a moment.
#[derive(Clone, Copy, Debug, FromRow)]
pub(crate) struct Settled {
    pub(crate) payments: i64,
    /// From the first that came to the last that was settled.
    pub(crate) took_us: i64,
    /// From received to settled.
    pub(crate) p50_us: i64,
    pub(crate) p99_us: i64,
}

impl Site {
    /// Starts everything but workers.
    pub(crate) async fn start(build: &Build, folder: &Path, scenario: &Scenario) -> Result<Self> {
        let servers = Servers::start(folder, &[]).await?;
        let mut command = process(build, folder, &servers)?;
        command.args(["migrate", "--partitions", &scenario.partitions.to_string()]);
        ensure!(command.status().await?.success(), "could not migrate: see {}", folder.display());
        let ledger = PgPool::connect_lazy(&servers.postgres.url(DATABASE))?;
        let seed = u64::from(std::process::id());
        let ports = [Port::choose(None, seed)?, Port::choose(None, seed + 1)?];
        let [address, operations] =
            ports.each_ref().map(|one| format!("127.0.0.1:{}", one.number()));
        let mut command = process(build, folder, &servers)?;
        command.args(["serve", "gateway"]);
        command.env("PAYSTREAM_BIND", &address).env("PAYSTREAM_OPERATIONS_BIND", &operations);
        let mut site = Self {
            build: build.clone(),
            folder: folder.to_owned(),
            servers,
            url: format!("http://{address}"),
            operations_url: format!("http://{operations}"),
            gateway: command.spawn().context("could not start a gateway")?,
            workers: Vec::new(),
            _ports: ports,
            ledger,
        };
        site.until_ready().await?;
        Ok(site)
    }

    pub(crate) fn start_workers(&mut self, count: usize) -> Result<()> {
        for number in 1..=count {
            let mut command = process(&self.build, &self.folder, &self.servers)?;
            command.args(["serve", "worker", "--worker-id", &format!("worker-{number}")]);
            self.workers.push(command.spawn().context("could not start a worker")?);
        }
        Ok(())
    }

    async fn until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + READY_TIMEOUT;
        let address = self.url.trim_start_matches("http://").to_owned();
        loop {
            let mut probe = Command::new(&self.build.binary);
            probe.args(["probe", &address, "--path", "/readyz"]);
            probe.stdout(Stdio::null()).stderr(Stdio::null());
            if probe.status().await?.success() {
                return Ok(());
            }
            self.still_run()?;
            if Instant::now() > end {
                bail!("the gateway is not ready: see {}", self.folder.display());
            }
            sleep(PAUSE).await;
        }
    }

    /// Fails when one of the processes has ended.
    fn still_run(&mut self) -> Result<()> {
        for process in self.workers.iter_mut().chain([&mut self.gateway]) {
            if let Some(status) = process.try_wait()? {
                bail!("a process ended with {status}: see {}", self.folder.display());
            }
        }
        Ok(())
    }

    /// Puts payments into the ledger, of customers that pay nothing later.
    pub(crate) async fn fill(&self, rows: u32) -> Result<()> {
        sqlx::query(
            "insert into customer_accounts (customer_id, asset_value, term_weeks)
             select 'OLD' || n, 1000000, 50 from generate_series(0, 99999) n on conflict do nothing",
        )
        .execute(&self.ledger)
        .await?;
        for first in (0..rows).step_by(usize::try_from(FILLED_AT_ONCE)?) {
            let last = (first + FILLED_AT_ONCE).min(rows) - 1;
            let fill = format!(
                "insert into processed_transactions (transaction_reference, payment_status,
                     customer_id, amount, outcome, applied_amount, excess_amount, balance_after,
                     account_version, partition, sequence, stream_id, epoch, transaction_date,
                     received_at, payload_digest)
                 select gen_random_uuid(), 'COMPLETE', 'OLD' || n % 100000, 1, 'applied', 1, 0, 1,
                     n / 100000 + 1, 0, -n - 1, '0-0', 0, now(), now(), sha256(n::text::bytea)
                 from generate_series({first}, {last}) n"
            );
            sqlx::query(AssertSqlSafe(fill)).execute(&self.ledger).await?;
        }
        sqlx::query("vacuum analyze").execute(&self.ledger).await?;
        sqlx::query("checkpoint").execute(&self.ledger).await?;
        Ok(())
    }

    /// How many entries the ledger has come past, and what time it is there.
    pub(crate) async fn mark(&self) -> Result<Mark> {
        let sql = "select coalesce(sum(last_sequence), 0)::bigint as entries,
                 clock_timestamp()::text as at
             from partition_owners";
        Ok(sqlx::query_as(sql).fetch_one(&self.ledger).await?)
    }

    /// Waits until the ledger has come past so many more.
    pub(crate) async fn settled(&mut self, since: &Mark, payments: u64) -> Result<()> {
        let wanted = since.entries + i64::try_from(payments)?;
        let (mut last, mut moved) = (since.entries, Instant::now());
        loop {
            let entries = self.mark().await?.entries;
            if entries >= wanted {
                return Ok(());
            }
            self.still_run()?;
            if entries > last {
                (last, moved) = (entries, Instant::now());
            }
            ensure!(
                moved.elapsed() < READY_TIMEOUT,
                "{} entries are not settled: see {}",
                wanted - entries,
                self.folder.display()
            );
            sleep(PAUSE).await;
        }
    }

    /// What became of the payments that came since; all of them were settled. Their times are in
    /// whole milliseconds.
    pub(crate) async fn found(&self, since: &Mark) -> Result<Settled> {
        let sql = "with settled as (
                 select received_at, processed_at from processed_transactions
                 where outcome = 'applied'
                     and received_at >= date_trunc('milliseconds', $1::timestamptz))
             select count(*) as payments,
                 (1e6 * extract(epoch from max(processed_at) - min(received_at)))::bigint as took_us,
                 (1e6 * extract(epoch from percentile_cont(0.5) within group
                     (order by processed_at - received_at)))::bigint as p50_us,
                 (1e6 * extract(epoch from percentile_cont(0.99) within group
                     (order by processed_at - received_at)))::bigint as p99_us
             from settled";
        Ok(sqlx::query_as(sql).bind(&since.at).fetch_one(&self.ledger).await?)
    }

    /// The processes, by the name under which they are told.
    fn watched(&self) -> Vec<(&'static str, u32)> {
        let own = |name, child: &Child| Some((name, child.id()?));
        let mut watched =
            vec![("Redis", self.servers.redis.pid()), ("PostgreSQL", self.servers.postgres.pid())];
        watched.extend(own("gateway", &self.gateway));
        watched.extend(self.workers.iter().filter_map(|worker| own("worker", worker)));
        watched
    }

    /// What each has used between two moments.
    pub(crate) fn used(
        &self,
        before: &ProcessTimes,
        after: &ProcessTimes,
    ) -> BTreeMap<&'static str, Duration> {
        let mut used = BTreeMap::new();
        for (name, pid) in self.watched() {
            *used.entry(name).or_insert(Duration::ZERO) += after.used_by(pid, before);
        }
        used
    }

    /// What a gateway and a worker have in memory, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let pids = [Some(&self.gateway), self.workers.first()];
        let pids = pids.into_iter().flatten().filter_map(Child::id);
        pids.map(resident).sum()
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        for mut process in self.workers.drain(..).chain([self.gateway]) {
            process.kill().await?;
        }
        self.ledger.close().await;
        self.servers.stop().await?;
        paystream_dev::remove(&self.folder).await
    }
}

/// The program, which knows the stores and writes to a log of all of them.
fn process(build: &Build, folder: &Path, servers: &Servers) -> Result<Command> {
    let log = OpenOptions::new().create(true).append(true).open(folder.join("paystream.log"))?;
    let mut command = Command::new(&build.binary);
    command.env_clear();
    command.envs(std::env::vars_os().filter(|(name, _)| KEPT.iter().any(|kept| name == kept)));
    // Whatever is set, the stores are these.
    command.envs(build.settings.iter().cloned());
    command.env("PAYSTREAM_REDIS_URL", servers.redis.url());
    command.env("PAYSTREAM_DATABASE_URL", servers.postgres.url(DATABASE));
    command.env("PAYSTREAM_LOG", "warn");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok(command)
}

/// Bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.context("/proc says nothing about memory")?.parse::<u64>()? * 1024)
}
