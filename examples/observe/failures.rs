//! Breaks one thing after the other under load, and holds what is said of it against what must be:
//! which alerts somebody is told of, which are inhibited, and what the figures of the home board
//! show. No other alert may fire. Each failure has a Prometheus of its own, since what an earlier
//! one left in long windows would fire as well.

use std::{path::Path, time::Duration};

use anyhow::Context;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    alerts::Alerts,
    deployment::Deployment,
    monitoring::{Monitoring, RATE_INTERVAL},
    sources,
};

/// How long all is well before something breaks.
const BEFORE: Duration = Duration::from_secs(30);
/// How long what must fire may take.
const FIRES_MAX: Duration = Duration::from_secs(180);
/// What is said then must still be so after this: an alert that is late is an alert.
const HOLDS: Duration = Duration::from_secs(100);
/// Fires always: that it comes says that alerts do.
const WATCHDOG: &str = "PaystreamWatchdog";
/// A figure that says that it knows nothing.
const MISSING: &str = "missing";
const HOME: &str = "Payments operations";

#[derive(Clone, Copy, Debug)]
enum Failure {
    TelemetryDead,
    RedisDead,
    WorkersDead,
    SlowLedger,
}

struct Case {
    failure: Failure,
    /// Alerts that somebody must be told of,
    told: &'static [&'static str],
    /// and those that must be inhibited.
    inhibited: &'static [&'static str],
    /// Figures of the home board, and what they must show: a colour, or [`MISSING`]. One without a
    /// title is any that is not named.
    shown: &'static [(&'static str, &'static str)],
}

const CASES: [Case; 4] = [
    Case {
        failure: Failure::TelemetryDead,
        told: &["PaystreamTelemetryMissing", WATCHDOG],
        inhibited: &["PaystreamAuditLate", "PaystreamTargetDown"],
        shown: &[("", MISSING)],
    },
    Case {
        failure: Failure::RedisDead,
        told: &["PaystreamStoreDown", WATCHDOG],
        inhibited: &[
            "PaystreamAvailabilityBurnsFast",
            "PaystreamAvailabilityBurnsSlowly",
            "PaystreamCircuitOpen",
            "PaystreamErrorRateHigh",
            "PaystreamTelemetryMissing",
        ],
        shown: &[
            ("Refused by our fault", "red"),
            ("Payments waiting", MISSING),
            ("Oldest waiting payment", MISSING),
            ("Availability budget of 30 days", "red"),
        ],
    },
    Case {
        failure: Failure::WorkersDead,
        told: &["PaystreamNoWorker", WATCHDOG],
        inhibited: &[
            "PaystreamOldestWaitingLong",
            "PaystreamPartitionOwnerless",
            "PaystreamQueueDepthHigh",
            "PaystreamTelemetryMissing",
        ],
        shown: &[
            ("Refused by our fault", "green"),
            ("Oldest waiting payment", "red"),
            ("Partitions without owner", "red"),
        ],
    },
    Case {
        failure: Failure::SlowLedger,
        told: &["PaystreamFreshnessBurnsFast", WATCHDOG],
        inhibited: &["PaystreamFreshnessBurnsSlowly"],
        shown: &[
            ("Refused by our fault", "green"),
            ("Time to settle, p99", "red"),
            ("Freshness budget of 30 days", "red"),
        ],
    },
];

impl Failure {
    async fn begin(
        self,
        deployment: &mut Deployment,
        monitoring: &Monitoring,
    ) -> anyhow::Result<()> {
        match self {
            Self::TelemetryDead => {
                monitoring.lose_telemetry();
                Ok(())
            }
            Self::RedisDead => deployment.kill_redis().await,
            Self::WorkersDead => deployment.kill_worker().await,
            Self::SlowLedger => deployment.slow_the_ledger().await,
        }
    }

    async fn end(self, deployment: &mut Deployment) -> anyhow::Result<()> {
        match self {
            Self::TelemetryDead => Ok(()),
            Self::RedisDead => deployment.restart_redis().await,
            Self::WorkersDead => deployment.start_worker(),
            Self::SlowLedger => deployment.speed_up_the_ledger().await,
        }
    }
}

/// Answers how much was not as it must be.
#[expect(clippy::print_stdout, reason = "it is what the program is for")]
pub async fn try_all(
    deployment: &mut Deployment,
    monitoring: Monitoring,
    folder: &Path,
    rate: u32,
) -> anyhow::Result<usize> {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["failure", "what", "is", "must be"]);
    let (mut faults, mut monitoring) = (0, monitoring);
    for case in &CASES {
        let name = format!("{:?}", case.failure);
        eprintln!("observe: {name}");
        let folder = folder.join(&name);
        std::fs::create_dir_all(&folder)?;
        monitoring = monitoring.anew(&folder).await?;
        let mut load = deployment.payments(rate, 3_600)?;
        sleep(BEFORE).await;
        case.failure.begin(deployment, &monitoring).await?;
        faults += case.judge(&name, &monitoring, &mut table).await?;
        load.kill().await?;
        case.failure.end(deployment).await?;
    }
    println!("{table}");
    println!("{} failures, {faults} figures and sets of alerts at fault", CASES.len());
    Ok(faults)
}

impl Case {
    async fn judge(
        &self,
        name: &str,
        monitoring: &Monitoring,
        table: &mut Table,
    ) -> anyhow::Result<usize> {
        let began = Instant::now();
        loop {
            let all = Alerts::now(monitoring).await?;
            if self.told.iter().all(|name| all.told.contains(*name)) {
                break;
            }
            if began.elapsed() > FIRES_MAX {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        sleep(HOLDS).await;
        let all = Alerts::now(monitoring).await?;
        let mut faults = 0;
        let mut note = |what: &str, is: &str, must_be: &str| {
            faults += usize::from(is != must_be);
            let is = if is == must_be { is.to_owned() } else { format!("{is} (WRONG)") };
            table.add_row([name, what, &is, must_be]);
        };
        let list = |all: &mut dyn Iterator<Item = &str>| {
            let mut all: Vec<&str> = all.collect();
            all.sort_unstable();
            all.join(", ")
        };
        for (what, is, must_be) in
            [("told", &all.told, self.told), ("inhibited", &all.inhibited, self.inhibited)]
        {
            let is = list(&mut is.iter().map(String::as_str));
            note(what, &is, &list(&mut must_be.iter().copied()));
        }
        for panel in sources::panels().iter().filter(|it| it.board == HOME && it.kind == "stat") {
            let shown = shown(monitoring, &panel.json).await?;
            let named = |wanted: &str| self.shown.iter().find(|(title, _)| *title == wanted);
            let must_be = named(&panel.title).or_else(|| named(""));
            note(&panel.title, &shown, must_be.map_or(&shown, |(_, state)| state));
        }
        Ok(faults)
    }
}

/// What Grafana would make of a figure: the colour that its value has, or what is missing.
async fn shown(monitoring: &Monitoring, panel: &Value) -> anyhow::Result<String> {
    let query = panel["targets"][0]["expr"].as_str().context("a figure without a query")?;
    let query = sources::filled_in(query, RATE_INTERVAL, "1m");
    let series = monitoring.series(&query).await?;
    let defaults = &panel["fieldConfig"]["defaults"];
    let Some(value) = series.first().and_then(|one| one["value"][1].as_str()?.parse::<f64>().ok())
    else {
        return Ok(MISSING.to_owned());
    };
    if value.is_nan() {
        return Ok("idle".to_owned());
    }
    let steps = defaults["thresholds"]["steps"].as_array().context("no thresholds")?;
    let reached = steps.iter().rfind(|step| step["value"].as_f64().is_none_or(|at| value >= at));
    let color = reached.and_then(|step| step["color"].as_str()).unwrap_or_default();
    Ok(color.to_owned())
}
