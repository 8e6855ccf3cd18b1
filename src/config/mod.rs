//! Every setting: its meaning, its unit, its default, and the checks across
//! settings. The doc lines are the help text, and the help text is the
//! documentation.
//!
//! Never reads the environment by itself (clap does) and never connects.

mod gateway;
mod tls;

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use humantime::parse_duration;
use secrecy::{ExposeSecret, SecretString};

pub use gateway::{GatewayConfig, OperationsBind, OperatorToken};
pub use tls::TlsConfig;

/// Both stores, and how the streams are partitioned.
#[derive(Args, Clone, Debug)]
pub struct StoreConfig {
    /// Redis: one server as redis:// or rediss:// URL, Sentinels that know it as
    /// redis-sentinel:// or rediss-sentinel:// URL, or nodes of a cluster as
    /// redis-cluster:// or rediss-cluster:// URL. Without it, the private Redis of a
    /// `paystream dev` that runs in this directory.
    #[arg(long, env = "PAYSTREAM_REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<SecretString>,
    /// File that holds this URL, instead of --redis-url.
    #[arg(long, env = "PAYSTREAM_REDIS_URL_FILE", conflicts_with = "redis_url")]
    pub redis_url_file: Option<PathBuf>,
    /// PEM file with the authorities that the certificates of Redis and of Sentinels may come from.
    /// Without it, public ones, whose roots are compiled in.
    #[arg(long, env = "PAYSTREAM_REDIS_CA_FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// PEM file with the certificate that Redis is shown, which it asks for unless its
    /// tls-auth-clients says otherwise.
    #[arg(long, env = "PAYSTREAM_REDIS_CERTIFICATE_FILE", requires = "redis_key_file")]
    pub redis_certificate_file: Option<PathBuf>,
    /// PEM file with the private key of this certificate.
    #[arg(long, env = "PAYSTREAM_REDIS_KEY_FILE", requires = "redis_certificate_file")]
    pub redis_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub ledger: LedgerConfig,
    /// First part of every Redis key. Stored with the topology.
    #[arg(long, env = "PAYSTREAM_KEY_PREFIX", default_value = "paystream", value_parser = key_prefix)]
    pub key_prefix: String,
    /// Number of partitions, 1 to 1024. Without it, the number of the topology,
    /// which is created with 32. A process configured otherwise than the
    /// topology refuses to start; `paystream topology resize` changes it.
    #[arg(long, env = "PAYSTREAM_PARTITIONS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: Option<u16>,
    /// ISO 4217 code of the accounts' currency. Without it, that of the topology,
    /// which is created with NGN. A process configured otherwise than the topology
    /// refuses to start.
    #[arg(long, env = "PAYSTREAM_CURRENCY")]
    pub currency: Option<String>,
    /// Start although Redis does not keep its data safe (AOF off, or not synced
    /// at every write). Costs promise 1: payments answered with 202 can be lost
    /// when Redis or its machine stops.
    #[arg(long, env = "PAYSTREAM_ALLOW_UNSAFE_REDIS")]
    pub allow_unsafe_redis: bool,
    /// Where a payment is when it is answered with 202: on the disk of the Redis server,
    /// or with PAYSTREAM_REPLICAS_MIN of its replicas as well. The same for every process.
    #[arg(long, env = "PAYSTREAM_DURABILITY", value_enum, default_value_t)]
    pub durability: Durability,
    /// Replicas that must have a payment, where PAYSTREAM_DURABILITY is `replicated`.
    /// While fewer confirm in time, payments are answered with 503.
    #[arg(long, env = "PAYSTREAM_REPLICAS_MIN", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub replicas_min: u32,
}

/// Authorities, and a certificate with its key.
pub type RedisCertificates = (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>);

/// What a payment that was answered with 202 outlives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// A crash of the Redis server: it is on its disk.
    #[default]
    Disk,
    /// Also the loss of that server: replicas have it, too.
    Replicated,
}

/// What is between us and PostgreSQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pooler {
    /// Nothing that ends or shares a session.
    #[default]
    None,
    /// A pooler that chooses a connection for each transaction.
    Transaction,
}

/// The ledger alone.
#[derive(Args, Clone, Debug)]
pub struct LedgerConfig {
    /// PostgreSQL, as postgres:// URL. It may name a primary and its standbys
    /// (`postgres://user:password@one:5432,two:5432/database`): whichever takes writes is
    /// used, and a promotion is followed. Without it, the private PostgreSQL of a
    /// `paystream dev` that runs in this directory.
    #[arg(long, env = "PAYSTREAM_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// File that holds this URL, instead of --database-url.
    #[arg(long, env = "PAYSTREAM_DATABASE_URL_FILE", conflicts_with = "database_url")]
    pub database_url_file: Option<PathBuf>,
    /// Connection pooler that the URL is of. With `transaction`, as PgBouncer has
    /// with pool_mode=transaction, nothing relies on a session: each transaction begins
    /// with its timeouts, and no statement is kept prepared. `paystream migrate`,
    /// `paystream topology` and `paystream archive` need PostgreSQL itself.
    #[arg(long, env = "PAYSTREAM_DATABASE_POOLER", value_enum, default_value_t)]
    pub database_pooler: Pooler,
    /// Reach Redis and PostgreSQL on other machines without TLS: with redis://, or with
    /// postgres:// without sslmode=require, verify-ca or verify-full. Whoever is on the
    /// network between can then read payments and passwords, and change them.
    #[arg(long, env = "PAYSTREAM_ALLOW_PLAINTEXT_STORES")]
    pub allow_plaintext_stores: bool,
}

/// Every payment may be so much later, and every hand-over of a partition.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// Settings of the worker, which settles payments in the ledger.
#[derive(Args, Clone, Debug)]
pub struct WorkerConfig {
    /// Name of this worker: unique, and the same after a restart. Without it, the
    /// host name and the first ordinal that is free on this machine.
    #[arg(long, env = "PAYSTREAM_WORKER_ID")]
    pub worker_id: Option<String>,
    /// The most lanes it uses, in a Redis Cluster for each master. Each settles its share of the
    /// partitions over its own connections, one batch at a time. Only as many are used as
    /// are needed to keep up.
    #[arg(long, env = "PAYSTREAM_LANES", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub lanes: u16,
    /// Maximum payments in a batch, shared by the partitions that have some; at
    /// least one of each.
    #[arg(long, env = "PAYSTREAM_BATCH_MAX", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch_max: u32,
    /// How long after a batch that was not full a lane lets payments gather before it
    /// takes the next, at most 1s. One that comes to an idle lane does not wait.
    #[arg(long, env = "PAYSTREAM_LINGER", default_value = "10ms", value_parser = parse_duration)]
    pub linger: Duration,
    /// Longest duration of a batch's transaction before it is rolled back.
    #[arg(long, env = "PAYSTREAM_BATCH_DEADLINE", default_value = "4s", value_parser = parse_duration)]
    pub batch_deadline: Duration,
    /// Attempts at an entry before it becomes a dead letter. Outages do not count.
    #[arg(long, env = "PAYSTREAM_ATTEMPTS_MAX", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts_max: u32,
    /// When a payment becomes a dead letter after its attempts, park later payments
    /// of its customer until `paystream parked release`.
    #[arg(long, env = "PAYSTREAM_PARK_CUSTOMER")]
    pub park_customer: bool,
    /// Time without a heartbeat after which a worker loses its partitions. At least
    /// twice the batch deadline.
    #[arg(long, env = "PAYSTREAM_LEASE", default_value = "10s", value_parser = parse_duration)]
    pub lease: Duration,
    /// Interval at which settled entries are trimmed from the streams.
    #[arg(long, env = "PAYSTREAM_TRIM_INTERVAL", default_value = "2s", value_parser = parse_duration)]
    pub trim_interval: Duration,
    /// How long settled entries stay in the streams, so that a ledger that lost
    /// commits can be replayed. Shorter while the streams take more than a quarter of
    /// Redis's maxmemory, or one has 3 times PAYSTREAM_BACKLOG_MAX entries.
    #[arg(long, env = "PAYSTREAM_RETENTION", default_value = "15m", value_parser = parse_duration)]
    pub retention: Duration,
    /// How long attempts at entries are kept for `paystream show`.
    #[arg(long, env = "PAYSTREAM_ATTEMPTS_RETENTION", default_value = "90d", value_parser = parse_duration)]
    pub attempts_retention: Duration,
    /// How long it is kept who owned a partition, after another has acquired it.
    #[arg(long, env = "PAYSTREAM_MOVES_RETENTION", default_value = "90d", value_parser = parse_duration)]
    pub moves_retention: Duration,
    /// Longest time without progress before a worker with waiting entries counts as
    /// stalled.
    #[arg(long, env = "PAYSTREAM_STALL_LIMIT", default_value = "30s", value_parser = parse_duration)]
    pub stall_limit: Duration,
    /// Address for the health endpoints of a worker without a gateway.
    #[arg(long, env = "PAYSTREAM_HEALTH_BIND")]
    pub health_bind: Option<SocketAddr>,
}

/// Settings of a serving process.
#[derive(Args, Clone, Debug)]
pub struct ServeConfig {
    #[command(flatten)]
    pub store: StoreConfig,
    #[command(flatten)]
    pub gateway: GatewayConfig,
    #[command(flatten)]
    pub worker: WorkerConfig,
    #[command(flatten)]
    pub export: ExportConfig,
    /// Maximum accounts a second that the running audit recomputes from their
    /// payments; 0 turns it off. One process at a time does it.
    #[arg(long, env = "PAYSTREAM_AUDIT_PACE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub audit_pace: u32,
    /// Longest duration of a stop, in which requests and batches in progress are
    /// finished.
    #[arg(long, env = "PAYSTREAM_SHUTDOWN_GRACE", default_value = "25s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
    /// Threads that do the work. More are started to read files and look up names. Without
    /// it, half of the processors that the process may use, at least 1.
    #[arg(long, env = "PAYSTREAM_THREADS")]
    pub threads: Option<NonZeroU16>,
}

/// Telemetry export. Its target is set by the variables of the OpenTelemetry
/// specification.
#[derive(Args, Clone, Debug)]
pub struct ExportConfig {
    /// Share of traces that are sampled, 0 to 1. Without it, the ratio of
    /// OTEL_TRACES_SAMPLER, or 0.01. Metrics count everything. Traces and metrics are
    /// sent to OTEL_EXPORTER_OTLP_ENDPOINT, if that is set.
    #[arg(long, env = "PAYSTREAM_TRACE_RATIO", value_parser = ratio)]
    pub trace_ratio: Option<f64>,
    /// Duration from which payments and requests are always traced, at most 20 a
    /// second.
    #[arg(long, env = "PAYSTREAM_TRACE_SLOW", default_value = "1s", value_parser = parse_duration)]
    pub trace_slow: Duration,
}

fn key_prefix(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let prefix = Some(text.to_owned()).filter(|_| !text.is_empty() && text.bytes().all(fits));
    prefix
        .ok_or_else(|| "PAYSTREAM_KEY_PREFIX must have letters, digits and hyphens only".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// Logging.
#[derive(Args, Clone, Debug)]
pub struct TelemetryConfig {
    /// Log level, or directives such as `info,paystream=debug`.
    #[arg(long, env = "PAYSTREAM_LOG", default_value = "info", global = true)]
    pub log: String,
    /// Format of log lines.
    #[arg(long, env = "PAYSTREAM_LOG_FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl StoreConfig {
    /// Uses these addresses if none is set. A configured store and a private one do
    /// not belong together, so one setting excludes both.
    #[must_use]
    pub fn or(mut self, addresses: Option<(String, String)>) -> Self {
        if self.redis_url.is_some() || self.redis_url_file.is_some() || self.ledger.is_set() {
            return self;
        }
        let (redis_url, database_url) = addresses.unzip();
        self.redis_url = redis_url.map(SecretString::from);
        self.ledger = self.ledger.or(database_url);
        self
    }

    /// Uses these addresses, whatever is set.
    pub fn replace(&mut self, redis_url: String, database_url: String) {
        (self.redis_url_file, self.ledger.database_url_file) = (None, None);
        (self.redis_ca_file, self.redis_certificate_file, self.redis_key_file) = (None, None, None);
        self.redis_url = Some(redis_url.into());
        self.ledger.database_url = Some(database_url.into());
    }

    /// Replicas that must have a payment before it is answered with 202.
    pub fn replicas(&self) -> u32 {
        match self.durability {
            Durability::Disk => 0,
            Durability::Replicated => self.replicas_min,
        }
    }

    /// The authorities of Redis, and the certificate with its key that it is shown, in PEM.
    pub fn redis_certificates(&self) -> anyhow::Result<RedisCertificates> {
        const CERTIFICATE: &str = "CERTIFICATE";
        let read = |file: &Option<PathBuf>, setting, what| {
            let Some(path) = file else { return Ok(None) };
            let file = path.display();
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("{setting}: could not read {file}"))?;
            ensure!(
                text.contains(&format!("{what}-----")),
                "{setting}: {file} has no {what} in PEM"
            );
            ensure!(!text.contains("ENCRYPTED"), "{setting}: the key in {file} is encrypted");
            Ok(Some(text.into_bytes()))
        };
        let authorities = read(&self.redis_ca_file, "PAYSTREAM_REDIS_CA_FILE", CERTIFICATE)?;
        let setting = "PAYSTREAM_REDIS_CERTIFICATE_FILE";
        let certificate = read(&self.redis_certificate_file, setting, CERTIFICATE)?;
        let key = read(&self.redis_key_file, "PAYSTREAM_REDIS_KEY_FILE", "PRIVATE KEY")?;
        Ok((authorities, certificate.zip(key)))
    }

    pub fn redis_url(&self) -> anyhow::Result<String> {
        let url = secret(&self.redis_url, &self.redis_url_file, "PAYSTREAM_REDIS_URL_FILE")?;
        url.context(
            "no Redis: set PAYSTREAM_REDIS_URL, or run this where `paystream dev` is running",
        )
    }
}

impl LedgerConfig {
    /// Uses this address where none is set.
    #[must_use]
    pub fn or(mut self, database_url: Option<String>) -> Self {
        if !self.is_set() {
            self.database_url = database_url.map(SecretString::from);
        }
        self
    }

    fn is_set(&self) -> bool {
        self.database_url.is_some() || self.database_url_file.is_some()
    }

    pub fn database_url(&self) -> anyhow::Result<String> {
        let setting = "PAYSTREAM_DATABASE_URL_FILE";
        let url = secret(&self.database_url, &self.database_url_file, setting)?;
        url.context(
            "no PostgreSQL: set PAYSTREAM_DATABASE_URL, or run this where `paystream dev` is running",
        )
    }

    /// Refuses a store that is reached without TLS on this host, unless it is this machine.
    pub fn refuse_plaintext(
        &self,
        setting: &str,
        host: Option<&str>,
        remedy: &str,
    ) -> anyhow::Result<()> {
        let exposed = host.filter(|host| !self.allow_plaintext_stores && !is_this_machine(host));
        exposed.map_or(Ok(()), |host| {
            bail!(
                "{setting} reaches {host} without TLS, so others on the network can read payments \
                 and passwords: {remedy}, or start with --allow-plaintext-stores and accept that"
            )
        })
    }
}

impl ServeConfig {
    /// Reads the files of tokens, and refuses settings that are unsafe together.
    pub fn check(mut self) -> anyhow::Result<Self> {
        self.gateway.read_files()?;
        self.gateway.check()?;
        self.worker.check()?;
        Ok(self)
    }
}

/// A secret that is set by itself or is in a file.
fn secret(
    value: &Option<SecretString>,
    file: &Option<PathBuf>,
    setting: &str,
) -> anyhow::Result<Option<String>> {
    let Some(path) = file else {
        return Ok(value.as_ref().map(|value| value.expose_secret().to_owned()));
    };
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("could not read {setting} {}", path.display()))?;
    Ok(Some(text.trim().to_owned()))
}

/// Whether a host, as a URL writes it, is this machine whatever the network's names mean.
pub(crate) fn is_this_machine(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl WorkerConfig {
    fn check(&self) -> anyhow::Result<()> {
        if let Some(id) = &self.worker_id {
            ensure!(
                (1..=64).contains(&id.len()) && id.bytes().all(is_of_a_name),
                "PAYSTREAM_WORKER_ID must have 1 to 64 letters, digits, dots, hyphens and \
                 underscores"
            );
        }
        ensure!(
            self.lease >= 2 * self.batch_deadline,
            "PAYSTREAM_LEASE ({:?}) must be at least twice PAYSTREAM_BATCH_DEADLINE ({:?}), or a \
             working worker loses its partitions in the middle of a batch",
            self.lease,
            self.batch_deadline
        );
        ensure!(
            self.batch_deadline >= Duration::from_millis(100),
            "PAYSTREAM_BATCH_DEADLINE ({:?}) must be at least 100ms",
            self.batch_deadline
        );
        ensure!(
            self.linger <= LINGER_MAX,
            "PAYSTREAM_LINGER ({:?}) must be at most {LINGER_MAX:?}",
            self.linger
        );
        ensure!(
            self.trim_interval >= Duration::from_millis(100),
            "PAYSTREAM_TRIM_INTERVAL ({:?}) must be at least 100ms",
            self.trim_interval
        );
        Ok(())
    }
}
