//! Settings of the gateway, and who is configured to use it. Never says what a token is.

use std::{
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{bail, ensure};
use chrono_tz::Tz;
use clap::Args;
use humantime::parse_duration;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::{TlsConfig, is_of_a_name, secret};

/// Where operators are served, apart from payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationsBind {
    At(SocketAddr),
    Nowhere,
}

impl FromStr for OperationsBind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::Nowhere);
        }
        text.parse().map(Self::At).map_err(|_| "must be an address such as 127.0.0.1:8083, or none")
    }
}

/// Every payment may be answered so much later.
const APPEND_LINGER_MAX: Duration = Duration::from_millis(100);

/// Settings of the gateway, which takes payments over HTTP.
#[derive(Args, Clone, Debug)]
pub struct GatewayConfig {
    /// Address the gateway listens on. Anything but loopback needs a token.
    #[arg(long, env = "PAYSTREAM_BIND", default_value = "127.0.0.1:8081")]
    pub bind: SocketAddr,
    /// Address for the operators' API and the console alone; PAYSTREAM_BIND then
    /// serves neither. It has 256 connections of its own. Anything but loopback needs
    /// operators' tokens or a key set. With `none`, this process serves no operators.
    /// Without it, all are served at PAYSTREAM_BIND.
    #[arg(long, env = "PAYSTREAM_OPERATIONS_BIND")]
    pub operations_bind: Option<OperationsBind>,
    #[command(flatten)]
    pub tls: TlsConfig,
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
    /// File with the public keys (JWKS) that callers' access tokens (RFC 9068) are signed
    /// with: EdDSA, ES256 or PS256. Used anew when it changes. When set, each caller has
    /// the scopes of its token, for operators' paths, too.
    #[arg(long, env = "PAYSTREAM_JWT_KEYS_FILE", requires = "jwt_issuer")]
    pub jwt_keys_file: Option<PathBuf>,
    /// Who makes these tokens, as their claim `iss` says.
    #[arg(long, env = "PAYSTREAM_JWT_ISSUER", requires = "jwt_keys_file")]
    pub jwt_issuer: Option<String>,
    /// For whom they are, as their claim `aud` says.
    #[arg(long, env = "PAYSTREAM_JWT_AUDIENCE", default_value = "paystream")]
    pub jwt_audience: String,
    /// Longest time from when a token was issued until it expires; others are refused.
    #[arg(long, env = "PAYSTREAM_JWT_LIFETIME_MAX", default_value = "1h", value_parser = parse_duration)]
    pub jwt_lifetime_max: Duration,
    /// Time without a page after which a session of the console ends; 2 minutes or more.
    #[arg(long, env = "PAYSTREAM_SESSION_IDLE", default_value = "30m", value_parser = parse_duration)]
    pub session_idle: Duration,
    /// Time after which a session of the console ends however much it is used, or with the
    /// access token that it began with; 30 days at most.
    #[arg(long, env = "PAYSTREAM_SESSION_LIFETIME", default_value = "12h", value_parser = parse_duration)]
    pub session_lifetime: Duration,
    /// File with what is known of each source (JSON): the keys that it signs requests with,
    /// the secrets and formats of its webhooks, and the networks that it may send from. Used
    /// anew when it changes.
    #[arg(long, env = "PAYSTREAM_SOURCES_FILE")]
    pub sources_file: Option<PathBuf>,
    /// Names that clients reach this deployment by, such as `pay.example,pay.example:8443`;
    /// without a port, ports 443 and 80 are meant. A signed request to any other is refused.
    /// Without this setting every name is taken.
    #[arg(long, env = "PAYSTREAM_PUBLIC_HOSTS", value_delimiter = ',', value_parser = public_host)]
    pub public_hosts: Vec<String>,
    /// Time zone of transaction dates that carry no offset.
    #[arg(long, env = "PAYSTREAM_TIME_ZONE", default_value = "Africa/Lagos")]
    pub time_zone: Tz,
    /// Longest time that a transaction date may be ahead of the gateway's clock;
    /// later dates are refused.
    #[arg(long, env = "PAYSTREAM_DATE_AHEAD_MAX", default_value = "1d", value_parser = parse_duration)]
    pub date_ahead_max: Duration,
    /// Unsettled entries of one partition at which the gateway answers 503. Where callers
    /// have sources, one source may have three quarters of them. Settled entries that are
    /// still kept have eight times that room.
    #[arg(long, env = "PAYSTREAM_BACKLOG_MAX", default_value_t = 200_000)]
    pub backlog_max: u32,
    /// How long a stream remembers a reference and answers a repetition at once.
    /// Later repetitions are accepted and have no effect in the ledger.
    #[arg(long, env = "PAYSTREAM_DEDUPE_WINDOW", default_value = "15m", value_parser = parse_duration)]
    pub dedupe_window: Duration,
    /// Longest wait of a request for its append, retries included, before 503.
    #[arg(long, env = "PAYSTREAM_APPEND_DEADLINE", default_value = "5s", value_parser = parse_duration)]
    pub append_deadline: Duration,
    /// How long after an append the gateway gathers single payments for the next one, at
    /// most 100ms. A payment that comes later than that does not wait.
    #[arg(long, env = "PAYSTREAM_APPEND_LINGER", default_value = "1ms", value_parser = parse_duration)]
    pub append_linger: Duration,
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
    /// Payments and looked-up references that one source may send a second; after a pause
    /// 10,000 at once, or those of a second. More are answered 429. Without it, no bound.
    #[arg(long, env = "PAYSTREAM_CALLER_RATE_MAX")]
    pub caller_rate_max: Option<NonZeroU32>,
    /// Longest duration of a request, apart from `Prefer: wait`.
    #[arg(long, env = "PAYSTREAM_REQUEST_TIMEOUT", default_value = "15s", value_parser = parse_duration)]
    pub request_timeout: Duration,
    /// Connections to PostgreSQL for queries.
    #[arg(long, env = "PAYSTREAM_QUERY_CONNECTIONS", default_value_t = 10)]
    pub query_connections: u32,
    /// A standby of PostgreSQL, as postgres:// URL, that balances and statements are read from
    /// while it has all that the primary has shown; else the primary is read.
    #[arg(long, env = "PAYSTREAM_DATABASE_READ_URL", hide_env_values = true)]
    pub database_read_url: Option<SecretString>,
    /// File that holds this URL, instead of --database-read-url.
    #[arg(long, env = "PAYSTREAM_DATABASE_READ_URL_FILE", conflicts_with = "database_read_url")]
    pub database_read_url_file: Option<PathBuf>,
    /// How long a reader waits for that standby before it reads the primary.
    #[arg(long, env = "PAYSTREAM_READ_LAG_MAX", default_value = "100ms", value_parser = parse_duration)]
    pub read_lag_max: Duration,
    /// Networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. The
    /// client is the last address there that is in none of them.
    #[arg(
        long,
        env = "PAYSTREAM_TRUSTED_PROXIES",
        default_value = "127.0.0.0/8,::1/128",
        value_delimiter = ','
    )]
    pub trusted_proxies: Vec<IpNet>,
    /// Networks whose callers decide by their traceparent whether a request is
    /// traced, such as 10.0.0.0/8,192.0.2.7/32. Other callers' requests
    /// have traces of their own with a link, and are sampled by PAYSTREAM_TRACE_RATIO.
    #[arg(long, env = "PAYSTREAM_TRACE_TRUSTED", value_delimiter = ',')]
    pub trace_trusted: Vec<IpNet>,
    /// Time to live of cached balances.
    #[arg(long, env = "PAYSTREAM_BALANCE_TTL", default_value = "10m", value_parser = parse_duration)]
    pub balance_ttl: Duration,
}

/// The token that earlier releases had in compose.yaml.
const PUBLISHED_TOKEN: &str = "paystream-local-token";

/// The use of a session is noted once a minute.
const SESSION_IDLE_MIN: Duration = Duration::from_secs(2 * 60);
const SESSION_LIFETIME_MAX: Duration = Duration::from_secs(30 * 86_400);

/// An operator. The audit log has the name.
#[derive(Clone, Debug)]
pub struct OperatorToken {
    pub name: String,
    pub token: SecretString,
}

impl GatewayConfig {
    /// Whether anybody needs a token.
    #[must_use]
    pub fn asks_for_token(&self) -> bool {
        self.api_token.is_some() || self.jwt_keys_file.is_some()
    }

    /// Unsettled entries of one partition that one source may have: where nobody has a source,
    /// there is nobody to keep room for.
    #[must_use]
    pub fn share_max(&self) -> u32 {
        let has_sources = self.jwt_keys_file.is_some() || self.sources_file.is_some();
        self.backlog_max - if has_sources { self.backlog_max / 4 } else { 0 }
    }

    /// Whether operators need one.
    #[must_use]
    pub fn asks_operators_for_token(&self) -> bool {
        self.asks_for_token() || !self.operators.is_empty()
    }

    /// Where operators are served.
    #[must_use]
    pub fn operators_bind(&self) -> SocketAddr {
        match self.operations_bind {
            Some(OperationsBind::At(address)) => address,
            Some(OperationsBind::Nowhere) | None => self.bind,
        }
    }

    pub(super) fn read_files(&mut self) -> anyhow::Result<()> {
        let token = secret(&self.api_token, &self.api_token_file, "PAYSTREAM_API_TOKEN_FILE")?;
        self.api_token = token.map(SecretString::from);
        let (url, file) = (&self.database_read_url, &self.database_read_url_file);
        let url = secret(url, file, "PAYSTREAM_DATABASE_READ_URL_FILE")?;
        self.database_read_url = url.map(SecretString::from);
        let (text, file) = (&self.operator_tokens, &self.operator_tokens_file);
        if let Some(text) = secret(text, file, "PAYSTREAM_OPERATOR_TOKENS_FILE")? {
            self.operators = operators(&text, self.api_token.as_ref())?;
        }
        Ok(())
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.check_sessions()?;
        match &self.api_token {
            None if !self.bind.ip().is_loopback() && self.jwt_keys_file.is_none() => bail!(
                "PAYSTREAM_BIND {} is reachable from outside, but no token guards it: set \
                 PAYSTREAM_JWT_KEYS_FILE, PAYSTREAM_API_TOKEN or PAYSTREAM_API_TOKEN_FILE, or \
                 bind to 127.0.0.1",
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
        if let Some(OperationsBind::At(address)) = self.operations_bind {
            ensure!(
                address.ip().is_loopback()
                    || !self.operators.is_empty()
                    || self.jwt_keys_file.is_some(),
                "PAYSTREAM_OPERATIONS_BIND {address} is reachable from outside, but no operator \
                 has a token: set PAYSTREAM_JWT_KEYS_FILE, PAYSTREAM_OPERATOR_TOKENS or \
                 PAYSTREAM_OPERATOR_TOKENS_FILE, or bind to 127.0.0.1"
            );
        }
        ensure!(
            self.operators_bind().ip().is_loopback()
                || self.operators.iter().all(|one| one.token.expose_secret() != PUBLISHED_TOKEN),
            "PAYSTREAM_OPERATOR_TOKENS holds a token that was published with compose.yaml: make \
             your own with `openssl rand -hex 32`"
        );
        self.check_appends()?;
        ensure!(
            self.jwt_issuer.as_ref().is_none_or(|issuer| !issuer.is_empty())
                && !self.jwt_audience.is_empty(),
            "PAYSTREAM_JWT_ISSUER and PAYSTREAM_JWT_AUDIENCE must not be empty"
        );
        ensure!(
            self.jwt_lifetime_max >= Duration::from_secs(1),
            "PAYSTREAM_JWT_LIFETIME_MAX must be at least 1s"
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

    fn check_appends(&self) -> anyhow::Result<()> {
        ensure!(
            self.append_deadline < self.request_timeout,
            "PAYSTREAM_APPEND_DEADLINE ({:?}) must be shorter than PAYSTREAM_REQUEST_TIMEOUT \
             ({:?}), or a request ends before its append does",
            self.append_deadline,
            self.request_timeout
        );
        ensure!(
            self.append_linger <= APPEND_LINGER_MAX,
            "PAYSTREAM_APPEND_LINGER ({:?}) must be at most {APPEND_LINGER_MAX:?}",
            self.append_linger
        );
        ensure!(
            self.dedupe_window >= 2 * self.append_deadline,
            "PAYSTREAM_DEDUPE_WINDOW ({:?}) must be at least twice PAYSTREAM_APPEND_DEADLINE \
             ({:?}), or a retried append is not recognised",
            self.dedupe_window,
            self.append_deadline
        );
        Ok(())
    }

    fn check_sessions(&self) -> anyhow::Result<()> {
        ensure!(
            SESSION_IDLE_MIN <= self.session_idle
                && self.session_idle <= self.session_lifetime
                && self.session_lifetime <= SESSION_LIFETIME_MAX,
            "PAYSTREAM_SESSION_IDLE ({:?}) must be at least 2m and PAYSTREAM_SESSION_LIFETIME \
             ({:?}) at least as long and at most 30days",
            self.session_idle,
            self.session_lifetime
        );
        Ok(())
    }
}

/// A name or an address, with or without a port.
fn public_host(text: &str) -> Result<String, &'static str> {
    let bracketed = |host: &str| {
        let six = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        six.is_some_and(|six| six.parse::<Ipv6Addr>().is_ok())
    };
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    let is_host = |host: &str| bracketed(host) || !host.is_empty() && host.bytes().all(of_a_name);
    let with_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    (is_host(text) || with_port)
        .then(|| text.to_owned())
        .ok_or("it must be a host with or without a port, such as pay.example or pay.example:8443")
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
