//! `paystream seed`: opens accounts GIG00001, GIG00002, … Never changes one
//! that exists.

use std::io::{Write, stdout};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{ActorArgs, Running};
use crate::{
    config::StoreConfig,
    ledger::{Opening, Signature},
    operations::open_ledger,
};

#[derive(Args, Clone, Debug)]
pub struct SeedArgs {
    #[command(flatten)]
    pub store: StoreConfig,
    /// How many customers there should be, GIG00001 being the first.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Print one JSON document instead of a sentence.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub actor: ActorArgs,
}

pub(super) async fn run(args: SeedArgs, running: Running) -> anyhow::Result<()> {
    let opening = seed(&args.store.or(running), args.count, args.actor).await?;
    let existing = u64::from(args.count) - opening.opened;
    if args.json {
        let answer = json!({
            "requested": args.count,
            "created": opening.opened,
            "existing": existing,
            "released": opening.released,
        });
        writeln!(stdout(), "{answer}")?;
    } else {
        writeln!(
            stdout(),
            "{} customers created, {existing} existed, {} payments released from suspense",
            opening.opened,
            opening.released
        )?;
    }
    Ok(())
}

/// Opens those of the first `count` seeded accounts that do not exist.
pub async fn seed(store: &StoreConfig, count: u32, actor: ActorArgs) -> anyhow::Result<Opening> {
    let by = Signature { actor: actor.name()?, reason: "seeded by the command line".to_owned() };
    let ledger = open_ledger(&store.ledger)?;
    let topology = ledger.schema().topology(store.partitions, &store.key_prefix).await;
    let registrar = ledger.registrar(&topology.context("could not seed")?);
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} customers, {eta} left");
    let bar = ProgressBar::new(u64::from(count)).with_style(style.context("progress style")?);
    let seeding = registrar.seed(count, &by, |looked_at| bar.inc(looked_at as u64));
    let opening = seeding.await.context("could not open accounts")?;
    bar.finish_and_clear();
    Ok(opening)
}
