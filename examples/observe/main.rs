//! Proves that the dashboards and alerts have something to show, and that they tell the truth when
//! something fails: starts a private paystream, a receiver of its telemetry, Prometheus and
//! Alertmanager, sends payments, and asks Prometheus every query of every panel and what every rule
//! looks at. Then it breaks one thing after the other, and holds the alerts that fire, those
//! that are inhibited and the figures of the home board against what must be. `make observe` runs it.
//! Has no Grafana, no Tempo and no collector: how panels look is not seen, searches for traces
//! are not asked, and what Tempo and the collector would say is made by the receiver.

#![allow(unreachable_pub, reason = "a program of one crate that nobody names")]
#![allow(clippy::unwrap_used, reason = "what it shares with the tests fails as they do")]

mod alerts;
mod deployment;
mod failures;
mod monitoring;
mod programs;
mod report;
mod weights;

#[path = "../../tests/it/otlp/mod.rs"]
#[allow(dead_code, reason = "the tests look at what is kept; this program shows it")]
mod otlp;
#[path = "../../tests/it/observability/queries.rs"]
#[allow(dead_code, reason = "the tests judge queries; this program asks them")]
mod queries;
#[path = "../../tests/it/observability/sources.rs"]
#[allow(dead_code, reason = "the tests judge panels; this program asks for them")]
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use tokio::time::sleep;

use deployment::Deployment;
use monitoring::Monitoring;
use report::Report;

/// Loads a private service and asks Prometheus every query of the dashboards and alerts; then
/// breaks the service and looks at what they say.
#[derive(Parser)]
struct Arguments {
    /// Payments a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// For how many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Share of traces that are sampled.
    #[arg(long, default_value = "0.25")]
    trace_ratio: String,
    /// Break nothing.
    #[arg(long)]
    no_failures: bool,
    /// The binary to try.
    #[arg(long, default_value = "target/debug/paystream")]
    binary: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/observe");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("what an earlier run left could not be removed")?;
    }
    fs::create_dir_all(&folder)?;
    eprintln!("observe: logs are in {}", folder.display());
    let binary = fs::canonicalize(&arguments.binary).context("there is no paystream binary")?;

    let monitoring = Monitoring::start(&folder).await?;
    let ratio = &arguments.trace_ratio;
    let mut deployment = Deployment::start(&binary, &folder, &monitoring.sink.url(), ratio).await?;
    deployment.load(arguments.rate, arguments.seconds).await?;
    // Exported, scraped, and evaluated by every rule.
    sleep(Duration::from_secs(10)).await;

    let mut report = Report::new(&monitoring, format!("{}s", arguments.seconds));
    report.panels().await?;
    report.rules().await?;
    report.catalogue().await?;
    report.alerts().await?;
    weights::compare(&mut report).await?;
    let mut faults = report.print();
    if !arguments.no_failures {
        faults += failures::try_all(&mut deployment, monitoring, &folder, arguments.rate).await?;
    }
    deployment.stop().await?;
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
