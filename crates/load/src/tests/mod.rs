//! Proves the load generator: its parts alone, and whole runs against a peer that misbehaves
//! on purpose.

mod parts;
mod runs;
mod stub;

use clap::Parser as _;

use super::args::LoadArgs;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: LoadArgs,
}

#[track_caller]
fn args(line: &str) -> LoadArgs {
    Cli::try_parse_from(["load"].into_iter().chain(line.split_whitespace())).unwrap().args
}
