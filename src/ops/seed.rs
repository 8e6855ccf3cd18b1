//! `paystream seed`: opens accounts GIG00001, GIG00002, … Never changes one
//! that exists.

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    config::StoreConfig,
    ledger::{Ledger, NewAccount, Opening},
};

/// Accounts between two moves of the progress bar.
const STEP: u32 = 5_000;

/// What seeding needs.
#[derive(Args, Clone, Debug)]
pub struct SeedArgs {
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
    /// How many customers there should be, GIG00001 being the first.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Print one JSON document instead of a sentence.
    #[arg(long)]
    pub json: bool,
}

/// Seeds and says what it did.
///
/// # Errors
/// When PostgreSQL cannot be reached; seeding again is safe.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub async fn run(args: &SeedArgs) -> anyhow::Result<()> {
    let opening = seed(&args.store, args.count).await?;
    let existing = u64::from(args.count) - opening.opened;
    if args.json {
        let answer = json!({
            "requested": args.count,
            "created": opening.opened,
            "existing": existing,
            "released": opening.released,
        });
        println!("{answer}");
    } else {
        println!(
            "{} customers created, {existing} existed, {} payments released from suspense",
            opening.opened, opening.released
        );
    }
    Ok(())
}

/// Opens those of the first `count` seeded accounts that do not exist.
///
/// # Errors
/// When PostgreSQL cannot be reached, or the topology differs.
pub async fn seed(store: &StoreConfig, count: u32) -> anyhow::Result<Opening> {
    let ledger =
        Ledger::new(store.ledger.database_url()?).context("PAYSTREAM_DATABASE_URL is not one")?;
    let topology = ledger.schema().topology(store.partitions, &store.key_prefix).await;
    let registrar = ledger.registrar(&topology.context("could not seed")?);
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} customers, {eta} left");
    let bar = ProgressBar::new(u64::from(count)).with_style(style.context("progress style")?);
    let mut total = Opening::default();
    let numbers: Vec<u32> = (1..=count).collect();
    for chunk in numbers.chunks(STEP as usize) {
        let accounts: Vec<NewAccount> = chunk.iter().copied().map(NewAccount::seeded).collect();
        let opening = registrar.open(&accounts).await.context("could not open accounts")?;
        total.opened += opening.opened;
        total.released += opening.released;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(total)
}
