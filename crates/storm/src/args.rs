//! What a storm is told on its command line. Never reads the environment.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::fault::Kind;

/// How Redis is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topology {
    /// One server.
    Single,
    /// A master with a replica, watched over by Redis Sentinel.
    Sentinel,
    /// Three masters with a replica each, which share the partitions.
    Cluster,
}

/// Runs gateways, workers, Redis and PostgreSQL as processes under the load of clients that behave
/// as banks do, breaks them in every way from a seed, lets all come to rest, and checks that no
/// payment suffered: by its own SQL and its own look-ups.
///
/// Exits with 0 when everything held, and with 1 when not: the folder then has the timeline, the
/// payments concerned and all logs.
#[derive(Clone, Debug, Parser)]
#[command(name = "paystream-storm", version)]
pub(crate) struct Args {
    /// What every choice follows from; the same seed gives the same faults at the same times.
    /// Without it, another one each time.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long faults are made.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1440))]
    pub(crate) minutes: u64,
    #[arg(long, value_enum, default_value = "single")]
    pub(crate) topology: Topology,
    /// Which faults may happen, such as `kill-worker,flush-all`; all of them without it.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) faults: Vec<Kind>,
    /// Customers, each paying one payment, or one batch, at a time.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) customers: u32,
    /// The program to break. Without it, the `paystream` beside this one.
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
    /// Where servers keep their data while it runs, and what is left of a failure.
    #[arg(long, default_value = "target/storm")]
    pub(crate) folder: PathBuf,
    /// Keep the folder although everything held.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print the plan of faults, and make none.
    #[arg(long)]
    pub(crate) plan: bool,
    /// Print one JSON document instead of text, and no progress.
    #[arg(long)]
    pub(crate) json: bool,
}
