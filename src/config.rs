//! Every setting: its meaning, its unit, its default, and the checks across
//! settings. The doc lines are the help text, and the help text is the
//! documentation.
//!
//! Never reads the environment by itself (clap does) and never connects.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use humantime::parse_duration;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

/// Where the stream and the ledger are, and how the stream is cut.
#[derive(Args, Clone, Debug)]
pub struct StoreConfig {
    /// Redis, as redis:// or rediss:// URL. Without it, the private Redis of a
    /// `paystream dev` that runs in this directory.
    #[arg(long, env = "PAYSTREAM_REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<SecretString>,
    /// Where the ledger is.
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
    /// The ISO 4217 code that accounts are kept in. Without it, that of the
    /// topology, which is created with NGN. A process configured otherwise than
    /// the topology refuses to start.
    #[arg(long, env = "PAYSTREAM_CURRENCY")]
    pub currency: Option<String>,
    /// Start although Redis does not keep its data safe (AOF off, or not synced
    /// at every write). Costs promise 1: payments answered with 202 can be lost
    /// when Redis or its machine stops.
    #[arg(long, env = "PAYSTREAM_ALLOW_UNSAFE_REDIS")]
    pub allow_unsafe_redis: bool,
}

/// Where the ledger is.
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
    /// File that holds them, one `ada=token` a line, instead of
    /// --operator-tokens.
    #[arg(long, env = "PAYSTREAM_OPERATOR_TOKENS_FILE", conflicts_with = "operator_tokens")]
    pub operator_tokens_file: Option<PathBuf>,
    /// The operators that either of them names.
    #[arg(skip)]
    pub operators: Vec<OperatorToken>,
    /// Time zone of transaction dates that carry no offset.
    #[arg(long, env = "PAYSTREAM_TIME_ZONE", default_value = "Africa/Lagos")]
    pub time_zone: Tz,
    /// How far ahead of the gateway's clock a transaction date may be. One that is
    /// further is refused.
    #[arg(long, env = "PAYSTREAM_DATE_AHEAD_MAX", default_value = "1d", value_parser = parse_duration)]
    pub date_ahead_max: Duration,
    /// Unsettled entries of one partition at which the gateway answers 503; settled
    /// ones that are still kept have eight times that room.
    #[arg(long, env = "PAYSTREAM_BACKLOG_MAX", default_value_t = 200_000)]
    pub backlog_max: u32,
    /// How long the stream remembers a reference, to answer a repetition at
    /// once. Later repetitions are accepted and have no effect in the ledger.
    #[arg(long, env = "PAYSTREAM_DEDUPE_WINDOW", default_value = "15m", value_parser = parse_duration)]
    pub dedupe_window: Duration,
    /// How long a request waits for an append, retries included, before 503.
    #[arg(long, env = "PAYSTREAM_APPEND_DEADLINE", default_value = "5s", value_parser = parse_duration)]
    pub append_deadline: Duration,
    /// Requests that may be under way at once; one more is answered 503.
    #[arg(long, env = "PAYSTREAM_REQUESTS_MAX", default_value_t = 10_000)]
    pub requests_max: usize,
    /// Connections that clients may have to the gateway; one more is closed at
    /// once. Never more than descriptors allow, of which 512 are kept for
    /// everything else.
    #[arg(long, env = "PAYSTREAM_CONNECTIONS_MAX", default_value_t = 8192)]
    pub connections_max: usize,
    /// Those of one address. A proxy in front is one address. Where descriptors allow
    /// fewer connections, an address has fewer in proportion.
    #[arg(long, env = "PAYSTREAM_CONNECTIONS_PER_ADDRESS_MAX", default_value_t = 4096)]
    pub connections_per_address_max: usize,
    /// How long a request may take as a whole, apart from `Prefer: wait`.
    #[arg(long, env = "PAYSTREAM_REQUEST_TIMEOUT", default_value = "15s", value_parser = parse_duration)]
    pub request_timeout: Duration,
    /// Connections to PostgreSQL for queries.
    #[arg(long, env = "PAYSTREAM_QUERY_CONNECTIONS", default_value_t = 10)]
    pub query_connections: u32,
    /// Networks whose callers decide by their traceparent whether a request is
    /// recorded, such as 10.0.0.0/8,192.0.2.7/32. Everybody else's is continued,
    /// and recorded by the ratio.
    #[arg(long, env = "PAYSTREAM_TRACE_TRUSTED", value_delimiter = ',')]
    pub trace_trusted: Vec<IpNet>,
    /// How long a balance stays in the cache.
    #[arg(long, env = "PAYSTREAM_BALANCE_TTL", default_value = "10m", value_parser = parse_duration)]
    pub balance_ttl: Duration,
}

/// The token that earlier releases had in compose.yaml.
const PUBLISHED_TOKEN: &str = "paystream-local-token";

/// An operator's name, and the token that stands for it.
#[derive(Clone, Debug)]
pub struct OperatorToken {
    /// What the audit log calls them.
    pub name: String,
    /// What they show.
    pub token: SecretString,
}

/// Settings of the worker, which settles payments in the ledger.
#[derive(Args, Clone, Debug)]
pub struct WorkerConfig {
    /// This worker's name, unique and the same after a restart. Without it, the
    /// host's name and the first ordinal that no other worker of this machine
    /// has.
    #[arg(long, env = "PAYSTREAM_WORKER_ID")]
    pub worker_id: Option<String>,
    /// Lanes: each settles its share of the partitions with connections of its
    /// own, one batch at a time.
    #[arg(long, env = "PAYSTREAM_LANES", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub lanes: u16,
    /// Payments in one batch, shared by the partitions that have some; at least
    /// one of each.
    #[arg(long, env = "PAYSTREAM_BATCH_MAX", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch_max: u32,
    /// How long one batch's transaction may take before it is given up.
    #[arg(long, env = "PAYSTREAM_BATCH_DEADLINE", default_value = "4s", value_parser = parse_duration)]
    pub batch_deadline: Duration,
    /// Attempts at settling an entry before it becomes a dead letter. Outages
    /// are no attempts.
    #[arg(long, env = "PAYSTREAM_ATTEMPTS_MAX", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts_max: u32,
    /// When a payment becomes a dead letter after its attempts, park what its
    /// customer sends after it, until `paystream parked release`.
    #[arg(long, env = "PAYSTREAM_PARK_CUSTOMER")]
    pub park_customer: bool,
    /// How long a silent worker keeps its partitions. At least twice the batch
    /// deadline.
    #[arg(long, env = "PAYSTREAM_LEASE", default_value = "10s", value_parser = parse_duration)]
    pub lease: Duration,
    /// How often settled entries are trimmed from the streams.
    #[arg(long, env = "PAYSTREAM_TRIM_INTERVAL", default_value = "2s", value_parser = parse_duration)]
    pub trim_interval: Duration,
    /// How long settled entries stay in the streams before they are trimmed:
    /// from them the ledger is brought forward again when PostgreSQL has lost
    /// commits. Less while the streams take more than a quarter of Redis's
    /// maxmemory, or one has 3 times PAYSTREAM_BACKLOG_MAX entries.
    #[arg(long, env = "PAYSTREAM_RETENTION", default_value = "15m", value_parser = parse_duration)]
    pub retention: Duration,
    /// Progress a worker with waiting entries must make within, to be live.
    #[arg(long, env = "PAYSTREAM_STALL_LIMIT", default_value = "30s", value_parser = parse_duration)]
    pub stall_limit: Duration,
    /// Address for the health endpoints of a worker without a gateway.
    #[arg(long, env = "PAYSTREAM_HEALTH_BIND")]
    pub health_bind: Option<SocketAddr>,
}

/// What a serving process needs.
#[derive(Args, Clone, Debug)]
pub struct ServeConfig {
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
    /// Settings of the gateway.
    #[command(flatten)]
    pub gateway: GatewayConfig,
    /// Settings of the worker.
    #[command(flatten)]
    pub worker: WorkerConfig,
    /// What it sends of itself.
    #[command(flatten)]
    pub export: ExportConfig,
    /// Accounts a second that the running audit recomputes from their payments,
    /// at most; 0 turns it off. One process at a time does it.
    #[arg(long, env = "PAYSTREAM_AUDIT_PACE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub audit_pace: u32,
    /// How long a stop may take: requests under way and batches are finished.
    #[arg(long, env = "PAYSTREAM_SHUTDOWN_GRACE", default_value = "25s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
}

/// What a serving process sends of itself. Where to is said by the variables of
/// the OpenTelemetry specification.
#[derive(Args, Clone, Debug)]
pub struct ExportConfig {
    /// Share of the traces that are recorded, 0 to 1. Without it, what
    /// OTEL_TRACES_SAMPLER says, or 0.01. Metrics count everything. Traces and
    /// metrics are sent to OTEL_EXPORTER_OTLP_ENDPOINT, if that is set.
    #[arg(long, env = "PAYSTREAM_TRACE_RATIO", value_parser = ratio)]
    pub trace_ratio: Option<f64>,
    /// Payments and requests that take this long are recorded whatever the
    /// ratio, some of them each second.
    #[arg(long, env = "PAYSTREAM_TRACE_SLOW", default_value = "1s", value_parser = parse_duration)]
    pub trace_slow: Duration,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// How the process speaks of itself.
#[derive(Args, Clone, Debug)]
pub struct TelemetryConfig {
    /// What is logged: a level, or directives such as `info,paystream=debug`.
    #[arg(long, env = "PAYSTREAM_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How it is written.
    #[arg(long, env = "PAYSTREAM_LOG_FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl StoreConfig {
    /// Uses these addresses if none is set: one store of ours and one of
    /// somebody else's do not belong together.
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

    /// The Redis URL.
    ///
    /// # Errors
    /// When none is set.
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

    /// The PostgreSQL URL.
    ///
    /// # Errors
    /// When none is set.
    pub fn database_url(&self) -> anyhow::Result<&str> {
        let url = self.database_url.as_ref().context(
            "no PostgreSQL: set PAYSTREAM_DATABASE_URL, or run this where `paystream dev` is running",
        )?;
        Ok(url.expose_secret())
    }
}

impl ServeConfig {
    /// Refuses settings that are each fine and together unsafe, and reads the
    /// token's file.
    ///
    /// # Errors
    /// A sentence that says which settings and why.
    pub fn check(mut self) -> anyhow::Result<Self> {
        self.gateway.read_token_file()?;
        self.gateway.read_operators()?;
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
    fn read_token_file(&mut self) -> anyhow::Result<()> {
        let Some(path) = &self.api_token_file else { return Ok(()) };
        let token = std::fs::read_to_string(path).with_context(|| {
            format!("could not read PAYSTREAM_API_TOKEN_FILE {}", path.display())
        })?;
        self.api_token = Some(token.trim().into());
        Ok(())
    }

    fn read_operators(&mut self) -> anyhow::Result<()> {
        let from_file = self.operator_tokens_file.as_ref().map(|path| {
            std::fs::read_to_string(path).with_context(|| {
                format!("could not read PAYSTREAM_OPERATOR_TOKENS_FILE {}", path.display())
            })
        });
        let text = match (from_file, &self.operator_tokens) {
            (Some(text), _) => text?,
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
            "PAYSTREAM_OPERATOR_TOKENS: the token of {name} stands for somebody else too"
        );
        ensure!(
            operators.iter().all(|other| other.name != name),
            "PAYSTREAM_OPERATOR_TOKENS: {name} is named twice"
        );
        operators.push(OperatorToken { name: name.to_owned(), token: token.into() });
    }
    ensure!(!operators.is_empty(), "PAYSTREAM_OPERATOR_TOKENS names nobody");
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
