//! Runs `paystream load` and reads what it says. Never sends a payment itself.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::{
    scenario::{Arrival, SATURATED, Scenario},
    site::Site,
};

/// What was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) sent_per_second: u64,
    pub(crate) accepted: u64,
    /// Whether all that fell due was sent in time.
    pub(crate) kept_rate: bool,
    /// From due to answered.
    pub(crate) accept: Percentiles,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

impl Load {
    /// Opens the accounts of a scenario, with one payment.
    pub(crate) async fn seed(site: &Site, scenario: &Scenario) -> Result<()> {
        let one = Scenario { connections: 1, batch: 1, ..scenario.clone() };
        let mut arguments = arguments(site, &one, (1, Duration::from_secs(1)));
        arguments.extend(words("seed-customers", &true));
        run(&site.build.binary, &arguments).await.map(drop)
    }

    /// Sends what a scenario says, so many a second for so long.
    pub(crate) async fn of(
        site: &Site,
        scenario: &Scenario,
        (rate, length): (u32, Duration),
    ) -> Result<Self> {
        let mut arguments = arguments(site, scenario, (rate, length));
        arguments.extend(words("seed-customers", &false));
        run(&site.build.binary, &arguments).await
    }

    /// As many single posts as something at this address takes.
    pub(crate) async fn ceiling(binary: &Path, url: &str, length: Duration) -> Result<Self> {
        let mut arguments = [
            words("url", &url),
            words("rate", &SATURATED),
            words("duration", &humantime::format_duration(length)),
            words("overrun", &"0s"),
            words("seed-customers", &false),
        ]
        .concat();
        arguments.push("--no-wait".to_owned());
        run(binary, &arguments).await
    }
}

fn words(name: &str, value: &dyn ToString) -> [String; 2] {
    [format!("--{name}"), value.to_string()]
}

fn arguments(site: &Site, scenario: &Scenario, (rate, length): (u32, Duration)) -> Vec<String> {
    let distribution = if scenario.one_customer_pays { "single" } else { "uniform" };
    let mut arguments = [
        words("url", &site.url),
        words("operations-url", &site.operations_url),
        words("rate", &rate),
        words("duration", &humantime::format_duration(length)),
        words("customers", &scenario.customers),
        words("distribution", &distribution),
        words("connections", &scenario.connections),
        words("batch", &scenario.batch),
        // Of a backlog all is to wait, however long it takes to come.
        words(
            "overrun",
            &if matches!(scenario.arrival, Arrival::Backlog(_)) { "60s" } else { "0s" },
        ),
    ]
    .concat();
    arguments.push("--no-wait".to_owned());
    arguments
}

async fn run(binary: &Path, arguments: &[String]) -> Result<Load> {
    let mut command = Command::new(binary);
    command.arg("load").args(arguments).arg("--json").kill_on_drop(true);
    command.stdin(Stdio::null());
    let output = command.output().await.context("could not run paystream load")?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("paystream load said: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    // What is late or not sent is what saturation means; anything else is no measurement.
    let problems = report["problems"].as_array().cloned().unwrap_or_default();
    if let Some(problem) = problems.first() {
        bail!("paystream load found: {problem}");
    }
    let number = |path: &str| report.pointer(path).and_then(Value::as_u64);
    let needed = |path: &str| number(path).with_context(|| format!("no {path} in the report"));
    let accept = report["sending"]["accept_latency_us"].clone();
    Ok(Load {
        sent_per_second: needed("/sending/achieved_per_second")?,
        accepted: needed("/sending/accepted")?,
        kept_rate: report["sending"]["behind"].is_null() && needed("/sending/not_sent")? == 0,
        accept: serde_json::from_value(accept).context("no latency in the report")?,
    })
}
