//! `paystream load`: an open-loop load generator that proves what it claims. It sends payments
//! at a fixed rate, measures from when each was due, waits until all are applied, and audits
//! that each accepted one had its effect once. It knows the service by HTTP alone, and never
//! names another room.

mod api;
mod args;
mod audit;
mod cpu;
mod drain;
mod plan;
mod progress;
mod record;
mod report;
mod run;
mod schedule;
mod send;
mod table;
mod tls;
#[cfg(test)]
mod tests;

pub use args::{Distribution, LoadArgs};
pub use cpu::ProcessTimes;
pub use tls::ClientTls;

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;

/// Sends the load that `args` ask for and prints the report. Fails when an accepted payment
/// is lost or doubled, or when not all is applied in time.
pub async fn run(args: LoadArgs) -> anyhow::Result<ExitCode> {
    args.check()?;
    let report = run::run(&args).await?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("could not write the report")?
    } else {
        table::render(&report)
    };
    writeln!(std::io::stdout().lock(), "{text}").context("could not print the report")?;
    for problem in &report.problems {
        eprintln!("{problem}");
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
