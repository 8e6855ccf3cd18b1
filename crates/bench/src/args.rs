//! What a benchmark is told on its command line. Never reads the environment.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// What users ask for: rates, latency and cost as they come.
    Table,
    /// How cost grows with the rate, partitions, workers, customers and the ledger.
    Growth,
}

/// Runs gateways, workers, Redis and PostgreSQL as processes under the load of `paystream load`, and
/// measures rates, latency, memory, and the processor time of each process per payment, beside what
/// this machine could do at best in the same run. Durability is as shipped.
#[derive(Clone, Debug, Parser)]
#[command(name = "paystream-bench", version)]
pub(crate) struct Args {
    #[arg(value_enum, default_value = "table")]
    pub(crate) suite: Suite,
    /// How often each is measured; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Only what has this in its name, such as `1,667`. May be said several times.
    #[arg(long)]
    pub(crate) only: Vec<String>,
    /// Every load lasts only a second or two: shows that it works, and measures nothing.
    #[arg(long)]
    pub(crate) quick: bool,
    /// The program to measure. Without it, the `paystream` beside this one.
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
    /// Another build of it, measured in turn with the first.
    #[arg(long)]
    pub(crate) against: Option<PathBuf>,
    /// How the other is set up, such as `PAYSTREAM_LANES=1`; without --against the same build. May be
    /// said several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub(crate) setting: Vec<(String, String)>,
    /// Where servers keep their data while it runs, and where charts and figures go.
    #[arg(long, default_value = "target/bench")]
    pub(crate) folder: PathBuf,
    /// Print one JSON document instead of tables, and no progress.
    #[arg(long)]
    pub(crate) json: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
