//! `paystream release`: makes the owner of a partition hand it over, and says who
//! has it next. Never chooses the next owner, and never touches a payment.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Args;

use super::{Signature, stores};
use crate::{
    clock,
    config::StoreConfig,
    operations::{Act, Operations},
};

/// What `paystream release` is told.
#[derive(Args, Clone, Debug)]
pub struct ReleaseArgs {
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
    /// Which partition.
    #[arg(long)]
    pub partition: u16,
    /// Do not wait for its owner to end its batch: what it has under way is
    /// refused by the ledger and settled by the next owner.
    #[arg(long)]
    pub force: bool,
    /// Who and why.
    #[command(flatten)]
    pub signature: Signature,
    /// Print one JSON document instead of a sentence.
    #[arg(long)]
    pub json: bool,
}

/// Releases a partition and waits, for two leases, until it has an owner under a
/// new epoch. Exits with 1 when it was refused, or has none in time.
pub async fn run(args: ReleaseArgs) -> anyhow::Result<ExitCode> {
    let (streams, ledger, topology) = stores::open(&args.store).await?;
    let operations = Operations::new(&streams, &ledger, &topology, clock::system);
    let ReleaseArgs { partition, force, signature, json, .. } = args;
    let act = Act::Release { partition, force, wait: true };
    let (text, code) = super::perform(&operations, &act, &signature.signed()?, json).await?;
    std::io::stdout().write_all(text.as_bytes()).context("could not write the answer")?;
    Ok(code)
}
