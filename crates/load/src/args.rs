//! The options of `paystream load`, and what makes them invalid together.
//! Never opens a connection and never reads a clock.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use secrecy::SecretString;

use super::tls::ClientTls;

/// One in a million: the resolution of the percentages.
pub(super) const PARTS_PER_MILLION: u32 = 1_000_000;

/// One byte of memory is kept per payment; this bounds it.
const PAYMENTS_MAX: u64 = 1_000_000_000;
/// The largest batch the service takes in one request.
const BATCH_MAX: u32 = 10_000;

/// Options of `paystream load`.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Where the service listens. With https:// the certificate must be for this name; a
    /// path in front of /api is kept
    #[arg(long, env = "PAYSTREAM_URL", default_value = "http://127.0.0.1:8081")]
    pub url: String,

    /// Bearer token of the service, when it asks for one
    #[arg(long, env = "PAYSTREAM_API_TOKEN", hide_env_values = true)]
    pub token: Option<SecretString>,

    /// Where it serves operators, when that is another address: for seeding and for what waits
    #[arg(long, env = "PAYSTREAM_OPERATIONS_URL")]
    pub operations_url: Option<String>,

    /// Bearer token of an operator, when they have some
    #[arg(long, env = "PAYSTREAM_OPERATIONS_TOKEN", hide_env_values = true)]
    pub operations_token: Option<SecretString>,

    #[command(flatten)]
    pub tls: ClientTls,

    /// Payments due per second. Arrivals keep this rate whatever the service does:
    /// one that cannot be sent in time is sent late, and its lateness counts as latency
    #[arg(long, env = "PAYSTREAM_LOAD_RATE", default_value_t = 1667, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,

    /// How long payments fall due, such as 60s or 2m
    #[arg(long, env = "PAYSTREAM_LOAD_DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub duration: Duration,

    /// How many of the seeded customers pay: GIG00001, GIG00002 and so on
    #[arg(long, env = "PAYSTREAM_LOAD_CUSTOMERS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub customers: u32,

    /// Who pays how often
    #[arg(long, env = "PAYSTREAM_LOAD_DISTRIBUTION", value_enum, default_value_t = Distribution::Uniform)]
    pub distribution: Distribution,

    /// Percentage of arrivals that repeat an earlier payment byte for byte
    #[arg(long, env = "PAYSTREAM_LOAD_DUPLICATES", default_value = "0", value_name = "PERCENT", value_parser = percent)]
    pub duplicates: u32,

    /// Percentage of arrivals that break a rule of validation and must be refused with 422
    #[arg(long, env = "PAYSTREAM_LOAD_INVALID", default_value = "0", value_name = "PERCENT", value_parser = percent)]
    pub invalid: u32,

    /// Keep-alive connections; each has one request under way at a time
    #[arg(long, env = "PAYSTREAM_LOAD_CONNECTIONS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,

    /// Payments per request. 1 posts to /api/v1/payments, more to /api/v1/payments/batch;
    /// the payments of a batch fall due together
    #[arg(long, env = "PAYSTREAM_LOAD_BATCH", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_MAX)))]
    pub batch: u32,

    /// How long one request may take before its outcome is called unknown
    #[arg(long, env = "PAYSTREAM_LOAD_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,

    /// How long after the duration late arrivals are still sent; the rest is reported as not sent
    #[arg(long, env = "PAYSTREAM_LOAD_OVERRUN", default_value = "30s", value_parser = humantime::parse_duration)]
    pub overrun: Duration,

    /// How long to wait, after the last payment is sent, until all are applied
    #[arg(long, env = "PAYSTREAM_LOAD_DRAIN_TIMEOUT", default_value = "120s", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,

    /// Seed of every random choice. The same seed and options give the same payments, but
    /// under references of their own: those begin with the id of the run. Printed in the report
    #[arg(long, env = "PAYSTREAM_LOAD_SEED")]
    pub seed: Option<u64>,

    /// Seed the customers that are missing before the run, through the service
    #[arg(long, env = "PAYSTREAM_LOAD_SEED_CUSTOMERS", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub seed_customers: bool,

    /// Stop after sending: neither wait for the drain nor audit
    #[arg(long, env = "PAYSTREAM_LOAD_NO_WAIT")]
    pub no_wait: bool,

    /// Report the CPU time per payment of these processes and of all below them (Linux)
    #[arg(
        long,
        env = "PAYSTREAM_LOAD_CPU_OF",
        value_delimiter = ',',
        value_name = "PID",
        conflicts_with = "cpu_of_names"
    )]
    pub cpu_of: Vec<u32>,

    /// Report the CPU time per payment of all processes of these names (Linux), such as
    /// paystream,redis-server,postgres. The load generator is reported apart
    #[arg(long, env = "PAYSTREAM_LOAD_CPU_OF_NAMES", value_delimiter = ',', value_name = "NAME")]
    pub cpu_of_names: Vec<String>,

    /// Print the report as one JSON document, and no progress
    #[arg(long, env = "PAYSTREAM_LOAD_JSON")]
    pub json: bool,
}

/// How payments are spread over the customers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Every customer alike
    Uniform,
    /// Customer n pays in proportion to 1/n: a few pay most
    Zipf,
    /// GIG00001 alone: one customer, one partition, one order
    Single,
}

/// A share between 0 and 100 per cent, exact to a ten-thousandth of a per cent, in parts per
/// million.
fn percent(text: &str) -> anyhow::Result<u32> {
    let percent: Decimal =
        text.strip_suffix('%').unwrap_or(text).parse().context("not a number")?;
    let parts = (percent * Decimal::from(PARTS_PER_MILLION / 100)).to_u32();
    parts.filter(|parts| *parts <= PARTS_PER_MILLION).context("must be between 0 and 100")
}

impl LoadArgs {
    /// Refuses options that are each fine and together are not.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let shares = self.duplicates + self.invalid;
        ensure!(
            shares <= PARTS_PER_MILLION,
            "--duplicates and --invalid are shares of the same arrivals: together they exceed 100 %"
        );
        ensure!(!self.timeout.is_zero(), "--timeout must be longer than nothing");
        let payments = self.arrivals()?;
        ensure!(
            payments > 0,
            "nothing falls due: --duration is shorter than one payment at --rate"
        );
        ensure!(
            payments <= PAYMENTS_MAX,
            "--rate times --duration is {payments} payments; at most {PAYMENTS_MAX} are remembered"
        );
        Ok(())
    }

    /// How many payments fall due in all, in whole requests.
    pub(super) fn arrivals(&self) -> anyhow::Result<u64> {
        let due = u128::from(self.rate) * self.duration.as_nanos() / 1_000_000_000;
        let whole = due - due % u128::from(self.batch);
        u64::try_from(whole).context("--duration is too long")
    }
}
