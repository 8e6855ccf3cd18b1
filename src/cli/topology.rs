//! `paystream topology`: shows how the stream is cut, and cuts it anew.
//!
//! Customers move between partitions when their number changes, so a payment is
//! accepted under the new number only when everything accepted under the old
//! one is settled: close, wait, begin, seal, switch, remove. What is done is
//! written down before the next step, each step can be done again, and running
//! the command again goes on where it stopped. Never moves an entry.

use std::{
    io::{IsTerminal, Write, stdout},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::sleep;

use super::{
    Running,
    stores::{self, streams},
};
use crate::{
    clock,
    config::StoreConfig,
    ledger::{Ledger, Resize, Topology},
    operations::Operations,
};

/// Between two looks at what is still waiting.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args, Clone, Debug)]
pub struct TopologyArgs {
    #[command(subcommand)]
    command: TopologyCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum TopologyCommand {
    /// Show the number of partitions and whether it is being changed
    Show {
        #[command(flatten)]
        store: StoreConfig,
        /// Print one JSON document instead of sentences.
        #[arg(long)]
        json: bool,
    },
    /// Change the number of partitions; run it again to go on where it stopped
    Resize(ResizeArgs),
}

#[derive(Args, Clone, Debug)]
struct ResizeArgs {
    /// Where it is; its number of partitions is the wanted one.
    #[command(flatten)]
    store: StoreConfig,
    /// Give up a change that has not been switched to, and take payments again.
    #[arg(long)]
    abort: bool,
    /// How long workers may take to settle what was accepted, before the change
    /// is given up.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
}

pub async fn run(args: TopologyArgs, running: Running) -> anyhow::Result<()> {
    match args.command {
        TopologyCommand::Show { store, json } => show(&store.or(running), json).await,
        TopologyCommand::Resize(mut args) => {
            args.store = args.store.or(running);
            resize(&args).await
        }
    }
}

async fn open(store: &StoreConfig) -> anyhow::Result<(Ledger, Topology)> {
    let ledger = stores::ledger(&store.ledger)?;
    let schema = ledger.schema();
    schema.check().await.context("could not read the topology")?;
    let topology = schema.topology(None, &store.key_prefix).await;
    Ok((ledger, topology.context("could not read the topology")?))
}

async fn show(store: &StoreConfig, json: bool) -> anyhow::Result<()> {
    let (_, topology) = open(store).await?;
    let Topology { generation, partitions, resizing_to, currency, .. } = topology;
    let currency = currency.as_str();
    let text = match (json, resizing_to) {
        (true, _) => format!(
            "{:#}",
            json!({
                "partitions": partitions, "generation": generation, "key_prefix": store.key_prefix,
                "resizing_to": resizing_to, "currency": currency,
            })
        ),
        (false, None) => format!("{partitions} partitions, generation {generation}, in {currency}"),
        (false, Some(to)) => format!(
            "{partitions} partitions, generation {generation}, in {currency}\na change to {to} \
             partitions is under way: go on with `paystream topology resize --partitions {to}`, or \
             give it up with --abort"
        ),
    };
    Ok(writeln!(stdout(), "{text}")?)
}

async fn resize(args: &ResizeArgs) -> anyhow::Result<()> {
    let store = &args.store;
    let (ledger, _) = open(store).await?;
    let right = ledger.resize().await.context("could not begin")?;
    let mut resize = right.context(
        "another `paystream topology resize` is running on this topology: wait until it has ended",
    )?;
    // Only now nobody else changes it.
    let (_, from) = open(store).await?;
    if args.abort {
        ensure!(from.resizing_to.is_some(), "no change of the topology is under way");
        abort(store, &mut resize, &from).await?;
        writeln!(stdout(), "given up; the topology keeps its {} partitions", from.partitions)?;
        return Ok(());
    }
    let to = store.partitions.context("say how many: --partitions N")?;
    if to == from.partitions && from.resizing_to.is_none() {
        writeln!(stdout(), "the topology has {to} partitions")?;
        return remove(store, &mut resize, &ledger).await;
    }
    ensure!(from.provisioned, "the streams have not been created: run `paystream migrate`");
    ensure!(
        from.resizing_to.is_some() || resize.has_workers().await?,
        "no worker lives, so nothing would be settled: start one first"
    );
    // While Redis is away nothing could be closed.
    streams(store, from.partitions, from.generation)?
        .gates()
        .await
        .context("could not reach Redis, so nothing was changed")?;
    if !resize.wish(to).await.context("could not write down what is wanted")? {
        let under_way = from.resizing_to.unwrap_or(from.partitions);
        bail!(
            "a change to {under_way} partitions is under way: go on with --partitions \
             {under_way}, or give it up with --abort"
        );
    }
    let highest = drain(args, &mut resize, &from).await?;
    switch(store, &mut resize, &from, to, highest).await?;
    writeln!(
        stdout(),
        "the topology has {to} partitions, was {}; processes with PAYSTREAM_PARTITIONS={} need \
         the new number",
        from.partitions,
        from.partitions
    )?;
    remove(store, &mut resize, &ledger).await
}

/// Closes the streams and waits until everything in them is settled; says the
/// highest sequence that was given out.
async fn drain(args: &ResizeArgs, resize: &mut Resize, from: &Topology) -> anyhow::Result<i64> {
    let store = &args.store;
    let streams = streams(store, from.partitions, from.generation)?;
    let mut gates = streams.gates().await.context("could not reach Redis")?;
    let given = gates.close().await.context("could not close the partitions")?;
    let upkeep = streams.upkeep().await.context("could not reach Redis")?;
    let end = Instant::now() + args.drain_timeout;
    let bar = progress_bar();
    loop {
        let depths = upkeep.depths().await.context("could not see what waits; run it again")?;
        let waiting: i64 = depths.iter().map(|depth| depth.lag + depth.pending).sum();
        if waiting == 0 {
            break;
        }
        let waiting = u64::try_from(waiting).unwrap_or(0);
        bar.set_length(bar.length().unwrap_or(0).max(waiting));
        bar.set_position(bar.length().unwrap_or(0) - waiting);
        let workers = resize.has_workers().await?;
        bar.set_message(if workers { "" } else { "no worker lives: start one" });
        if Instant::now() > end {
            bar.finish_and_clear();
            abort(store, resize, from).await?;
            bail!(
                "{waiting} payments were not settled within {:?}, so the change is given up and \
                 payments are taken again. See that the workers work, then run it again",
                args.drain_timeout
            );
        }
        sleep(LOOK).await;
    }
    bar.finish_and_clear();
    if let Some((partition, given, known)) = resize.missing(&given).await?.first() {
        bail!(
            "partition {partition} has given out sequence {given}, the ledger knows it up to \
             {known}, and the stream holds nothing more: payments are missing. Give the change up \
             with --abort and see `paystream audit`"
        );
    }
    let known = resize.highest_sequence().await.context("could not read the cursors")?;
    Ok(given.into_iter().max().unwrap_or(0).max(known))
}

/// Begins the new streams, and lets nothing lead back to the old ones.
async fn switch(
    store: &StoreConfig,
    resize: &mut Resize,
    from: &Topology,
    to: u16,
    highest: i64,
) -> anyhow::Result<()> {
    let old = streams(store, from.partitions, from.generation)?;
    let new = streams(store, to, from.generation + 1)?;
    let mut old = old.gates().await.context("could not reach Redis")?;
    let mut new = new.gates().await.context("could not reach Redis")?;
    let groups = old.groups().await.context("could not see which groups there are")?;
    new.begin(highest, &groups).await.context("could not create the new streams; run it again")?;
    old.seal().await.context("could not close the old streams for good; run it again")?;
    resize.switch(from.generation, to, highest).await.context("could not switch; run it again")
}

async fn abort(store: &StoreConfig, resize: &mut Resize, from: &Topology) -> anyhow::Result<()> {
    let streams = streams(store, from.partitions, from.generation)?;
    let mut gates = streams.gates().await.context("could not reach Redis")?;
    gates.open().await.context(
        "the change cannot be given up any more: finish it by running it again without --abort",
    )?;
    resize.forget().await.context("payments are taken again, but the wish is still written down")
}

/// Gives what was left in the streams of earlier topologies to the current ones, and
/// removes them, unless a group still reads them. A Redis that took over may have
/// some that were removed.
async fn remove(store: &StoreConfig, resize: &mut Resize, ledger: &Ledger) -> anyhow::Result<()> {
    let (_, topology) = open(store).await?;
    let current = streams(store, topology.partitions, topology.generation)?;
    let operations = Operations::new(&current, ledger, &topology, clock::system);
    let carried =
        operations.carry_on().await.context("could not look at old streams; run it again");
    let (given, stopped) = carried?;
    if given > 0 {
        let (what, they) = if given == 1 { ("payment", "was") } else { ("payments", "were") };
        writeln!(
            stdout(),
            "{given} {what} in streams of an earlier topology {they} given to the new ones"
        )?;
    }
    for entry in stopped {
        writeln!(stdout(), "{entry}")?;
    }
    for past in ledger.schema().past().await? {
        let streams = streams(store, past.partitions, past.generation)?;
        let mut gates = streams.gates().await.context("could not reach Redis")?;
        let waiting = gates.remove().await.context("could not remove old streams; run it again")?;
        if waiting.is_empty() {
            resize.set_removed(past.generation).await?;
            continue;
        }
        let groups: Vec<String> = waiting.into_iter().collect();
        writeln!(
            stdout(),
            "streams of generation {} stay, because groups have not read all of them: {}. Run it \
             again later to remove them",
            past.generation,
            groups.join(", ")
        )?;
    }
    Ok(())
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let template = "{spinner} settling [{bar:40}] {human_pos}/{human_len} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
