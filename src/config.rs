//! Every setting: its meaning, its unit, its default, and the checks across
//! settings. The doc lines are the help text, and the help text is the
//! documentation.
//!
//! Never reads the environment by itself (clap does) and never connects.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use humantime::parse_duration;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

/// Both stores, and how the streams are partitioned.
#[derive(Args, Clone, Debug)]
pub struct StoreConfig {
    /// Redis, as redis:// or rediss:// URL. Without it, the private Redis of a
    /// `paystream dev` that runs in this directory.
    #[arg(long, env = "PAYSTREAM_REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<SecretString>,
    #[command(flatten)]
    pub ledger: LedgerConfig,
    /// First part of every Redis key. Stored with the topology.
    #[arg(long, env = "PAYSTREAM_KEY_PREFIX", default_value = "paystream")]
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
}

/// The ledger alone.
#[derive(Args, Clone, Debug)]
pub struct LedgerConfig {
    /// PostgreSQL, as postgres:// URL. Without it, the private PostgreSQL of a
    /// `paystream dev` that runs in this directory.
    #[arg(long, env = "PAYSTREAM_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
}

/// Settings of the gateway, which takes payments over HTTP.
#[derive(Args, Clone, Debug)]
pub struct GatewayConfig {
    /// Address the gateway listens on. Anything but loopback needs a token.
    #[arg(long, env = "PAYSTREAM_BIND", default_value = "127.0.0.1:8081")]
    pub bind: SocketAddr,
    /// Bearer token that guards every endpoint but the health ones and the
    /// description of the API. It opens the operators' API and the console only
    /// on loopback, and only where no operator has a token.
    #[arg(long, env = "PAYSTREAM_API_TOKEN", hide_env_values = true)]
    pub api_token: Option<SecretString>,
    /// File that holds the bearer token, instead of --api-token.
    #[arg(long, env = "PAYSTREAM_API_TOKEN_FILE", conflicts_with = "api_token")]
    pub api_token_file: Option<PathBuf>,
    /// Operators and their bearer tokens, as `ada=token,ben=token`. When there
    /// are some, the console and the operators' API take these tokens only, and
    /// what is changed is signed with the name.
    #[arg(long, env = "PAYSTREAM_OPERATOR_TOKENS", hide_env_values = true)]
    pub operator_tokens: Option<SecretString>,
    /// File with operators and their tokens, one `ada=token` a line, instead of
    /// --operator-tokens.
    #[arg(long, env = "PAYSTREAM_OPERATOR_TOKENS_FILE", conflicts_with = "operator_tokens")]
    pub operator_tokens_file: Option<PathBuf>,
    /// From --operator-tokens and its file.
    #[arg(skip)]
    pub operators: Vec<OperatorToken>,
    /// Time zone of transaction dates that carry no offset.
    #[arg(long, env = "PAYSTREAM_TIME_ZONE", default_value = "Africa/Lagos")]
    pub time_zone: Tz,
    /// Longest time that a transaction date may be ahead of the gateway's clock;
    /// later dates are refused.
    #[arg(long, env = "PAYSTREAM_DATE_AHEAD_MAX", default_value = "1d", value_parser = parse_duration)]
    pub date_ahead_max: Duration,
    /// Unsettled entries of one partition at which the gateway answers 503. Settled
    /// entries that are still kept have eight times that room.
    #[arg(long, env = "PAYSTREAM_BACKLOG_MAX", default_value_t = 200_000)]
    pub backlog_max: u32,
    /// How long a stream remembers a reference and answers a repetition at once.
    /// Later repetitions are accepted and have no effect in the ledger.
    #[arg(long, env = "PAYSTREAM_DEDUPE_WINDOW", default_value = "15m", value_parser = parse_duration)]
    pub dedupe_window: Duration,
    /// Longest wait of a request for its append, retries included, before 503.
    #[arg(long, env = "PAYSTREAM_APPEND_DEADLINE", default_value = "5s", value_parser = parse_duration)]
    pub append_deadline: Duration,
    /// Requests in progress at once; one more is answered 503.
    #[arg(long, env = "PAYSTREAM_REQUESTS_MAX", default_value_t = 10_000)]
    pub requests_max: usize,
    /// Client connections of the gateway; one more is closed at once. Never more
    /// than the limit of file descriptors less 512.
    #[arg(long, env = "PAYSTREAM_CONNECTIONS_MAX", default_value_t = 8192)]
    pub connections_max: usize,
    /// Client connections from one address; a proxy in front is one address. Reduced
    /// in proportion where file descriptors allow fewer connections.
    #[arg(long, env = "PAYSTREAM_CONNECTIONS_PER_ADDRESS_MAX", default_value_t = 4096)]
    pub connections_per_address_max: usize,
    /// Longest duration of a request, apart from `Prefer: wait`.
    #[arg(long, env = "PAYSTREAM_REQUEST_TIMEOUT", default_value = "15s", value_parser = parse_duration)]
    pub request_timeout: Duration,
    /// Connections to PostgreSQL for queries.
    #[arg(long, env = "PAYSTREAM_QUERY_CONNECTIONS", default_value_t = 10)]
    pub query_connections: u32,
    /// Networks whose callers decide by their traceparent whether a request is
    /// traced, such as 10.0.0.0/8,192.0.2.7/32. Traces of other callers are
    /// continued, and sampled by PAYSTREAM_TRACE_RATIO.
    #[arg(long, env = "PAYSTREAM_TRACE_TRUSTED", value_delimiter = ',')]
    pub trace_trusted: Vec<IpNet>,
    /// Time to live of cached balances.
    #[arg(long, env = "PAYSTREAM_BALANCE_TTL", default_value = "10m", value_parser = parse_duration)]
    pub balance_ttl: Duration,
}

/// The token that earlier releases had in compose.yaml.
const PUBLISHED_TOKEN: &str = "paystream-local-token";

/// An operator. The audit log has the name.
#[derive(Clone, Debug)]
pub struct OperatorToken {
    pub name: String,
    pub token: SecretString,
}

/// Settings of the worker, which settles payments in the ledger.
#[derive(Args, Clone, Debug)]
pub struct WorkerConfig {
    /// Name of this worker: unique, and the same after a restart. Without it, the
    /// host name and the first ordinal that is free on this machine.
    #[arg(long, env = "PAYSTREAM_WORKER_ID")]
    pub worker_id: Option<String>,
    /// Number of lanes. Each settles its share of the partitions over its own
    /// connections, one batch at a time.
    #[arg(long, env = "PAYSTREAM_LANES", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub lanes: u16,
    /// Maximum payments in a batch, shared by the partitions that have some; at
    /// least one of each.
    #[arg(long, env = "PAYSTREAM_BATCH_MAX", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch_max: u32,
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
        if self.redis_url.is_some() || self.ledger.database_url.is_some() {
            return self;
        }
        let (redis_url, database_url) = addresses.unzip();
        self.redis_url = redis_url.map(SecretString::from);
        self.ledger = self.ledger.or(database_url);
        self
    }

    pub fn redis_url(&self) -> anyhow::Result<&str> {
        let url = self.redis_url.as_ref().context(
            "no Redis: set PAYSTREAM_REDIS_URL, or run this where `paystream dev` is running",
        )?;
        Ok(url.expose_secret())
    }
}

impl LedgerConfig {
    /// Uses this address where none is set.
    #[must_use]
    pub fn or(mut self, database_url: Option<String>) -> Self {
        self.database_url = self.database_url.or(database_url.map(SecretString::from));
        self
    }

    pub fn database_url(&self) -> anyhow::Result<&str> {
        let url = self.database_url.as_ref().context(
            "no PostgreSQL: set PAYSTREAM_DATABASE_URL, or run this where `paystream dev` is running",
        )?;
        Ok(url.expose_secret())
    }
}

impl ServeConfig {
    /// Reads the files of tokens, and refuses settings that are unsafe together.
    pub fn check(mut self) -> anyhow::Result<Self> {
        self.gateway.read_tokens()?;
        self.gateway.check()?;
        self.worker.check()?;
        ensure!(
            !self.store.key_prefix.is_empty()
                && self.store.key_prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
            "PAYSTREAM_KEY_PREFIX must have letters, digits and hyphens only"
        );
        Ok(self)
    }
}

impl GatewayConfig {
    fn read_tokens(&mut self) -> anyhow::Result<()> {
        if let Some(path) = &self.api_token_file {
            let token = read(path, "PAYSTREAM_API_TOKEN_FILE")?;
            self.api_token = Some(token.trim().into());
        }
        let text = match (&self.operator_tokens_file, &self.operator_tokens) {
            (Some(path), _) => read(path, "PAYSTREAM_OPERATOR_TOKENS_FILE")?,
            (None, Some(text)) => text.expose_secret().to_owned(),
            (None, None) => return Ok(()),
        };
        self.operators = operators(&text, self.api_token.as_ref())?;
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        match &self.api_token {
            None if !self.bind.ip().is_loopback() => bail!(
                "PAYSTREAM_BIND {} is reachable from outside, but no token guards it: set \
                 PAYSTREAM_API_TOKEN or PAYSTREAM_API_TOKEN_FILE, or bind to 127.0.0.1",
                self.bind
            ),
            Some(token) if token.expose_secret().len() < 16 => {
                bail!("PAYSTREAM_API_TOKEN must have at least 16 characters")
            }
            Some(token)
                if !self.bind.ip().is_loopback() && token.expose_secret() == PUBLISHED_TOKEN =>
            {
                bail!(
                    "PAYSTREAM_API_TOKEN is the one that was published with compose.yaml, so \
                     everybody knows it: make your own with `openssl rand -hex 32`"
                )
            }
            _ => {}
        }
        ensure!(
            self.bind.ip().is_loopback()
                || self.operators.iter().all(|one| one.token.expose_secret() != PUBLISHED_TOKEN),
            "PAYSTREAM_OPERATOR_TOKENS holds a token that was published with compose.yaml: make \
             your own with `openssl rand -hex 32`"
        );
        ensure!(
            self.append_deadline < self.request_timeout,
            "PAYSTREAM_APPEND_DEADLINE ({:?}) must be shorter than PAYSTREAM_REQUEST_TIMEOUT \
             ({:?}), or a request ends before its append does",
            self.append_deadline,
            self.request_timeout
        );
        ensure!(
            self.dedupe_window >= 2 * self.append_deadline,
            "PAYSTREAM_DEDUPE_WINDOW ({:?}) must be at least twice PAYSTREAM_APPEND_DEADLINE \
             ({:?}), or a retried append is not recognised",
            self.dedupe_window,
            self.append_deadline
        );
        ensure!(self.backlog_max > 0, "PAYSTREAM_BACKLOG_MAX must be at least 1");
        ensure!(self.requests_max > 0, "PAYSTREAM_REQUESTS_MAX must be at least 1");
        ensure!(
            self.connections_max > 0 && self.connections_per_address_max > 0,
            "PAYSTREAM_CONNECTIONS_MAX and PAYSTREAM_CONNECTIONS_PER_ADDRESS_MAX must be at least 1"
        );
        ensure!(self.query_connections > 0, "PAYSTREAM_QUERY_CONNECTIONS must be at least 1");
        Ok(())
    }
}

fn read(path: &Path, setting: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path);
    text.with_context(|| format!("could not read {setting} {}", path.display()))
}

/// Reads operators, one a line or between commas. Says which one is wrong, and
/// never what its token is.
fn operators(text: &str, api_token: Option<&SecretString>) -> anyhow::Result<Vec<OperatorToken>> {
    let mut operators: Vec<OperatorToken> = Vec::new();
    let entries = text.lines().flat_map(|line| line.split(',')).map(str::trim);
    for entry in entries.filter(|entry| !entry.is_empty() && !entry.starts_with('#')) {
        let (name, token) = entry.split_once('=').map_or(("", ""), |(n, t)| (n.trim(), t.trim()));
        let number = operators.len() + 1;
        ensure!(
            (1..=64).contains(&name.len()) && name.bytes().all(is_of_a_name),
            "PAYSTREAM_OPERATOR_TOKENS: operator {number} must be written as name=token, with a \
             name of 1 to 64 letters, digits, dots, hyphens and underscores"
        );
        ensure!(
            token.len() >= 16,
            "PAYSTREAM_OPERATOR_TOKENS: the token of {name} must have at least 16 characters"
        );
        let taken = operators.iter().map(|other| &other.token).chain(api_token);
        ensure!(
            taken.into_iter().all(|other| other.expose_secret() != token),
            "PAYSTREAM_OPERATOR_TOKENS: the token of {name} is used twice"
        );
        ensure!(
            operators.iter().all(|other| other.name != name),
            "PAYSTREAM_OPERATOR_TOKENS: {name} is named twice"
        );
        operators.push(OperatorToken { name: name.to_owned(), token: token.into() });
    }
    ensure!(!operators.is_empty(), "PAYSTREAM_OPERATOR_TOKENS has no operator");
    Ok(operators)
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
            self.trim_interval >= Duration::from_millis(100),
            "PAYSTREAM_TRIM_INTERVAL ({:?}) must be at least 100ms",
            self.trim_interval
        );
        Ok(())
    }
}
