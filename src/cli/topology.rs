//! `paystream topology`: shows how the stream is cut, and cuts it anew.

use std::{
    io::{Write, stdout},
    time::Duration,
};

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{ActorArgs, Running, plain, stores};
use crate::{
    config::StoreConfig,
    domain::shown,
    ledger::Topology,
    operations::{Act, DrainProgress, Signature},
};

const SETTLING: &str = "{spinner} settling [{bar:40}] {human_pos}/{human_len} {msg}";

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
    /// Why, for the audit log.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    actor: ActorArgs,
}

pub async fn run(args: TopologyArgs, running: Running) -> anyhow::Result<()> {
    match args.command {
        TopologyCommand::Show { store, json } => show(store.or(running), json).await,
        TopologyCommand::Resize(args) => resize(args, running).await,
    }
}

async fn show(mut store: StoreConfig, json: bool) -> anyhow::Result<()> {
    store.partitions = None;
    let (_, topology) = stores::ledger_and_topology(&store).await?;
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
             partitions is under way: go on with `{}`, or give it up with --abort",
            Act::Resize { to, drain_timeout: Duration::ZERO }.command()
        ),
    };
    Ok(writeln!(stdout(), "{text}")?)
}

async fn resize(args: ResizeArgs, running: Running) -> anyhow::Result<()> {
    let ResizeArgs { mut store, abort, drain_timeout, reason, actor } = args;
    let reason = reason.unwrap_or_default();
    plain("--reason", &reason)?;
    let by = Signature { actor: actor.name()?, reason };
    let act = match store.partitions.take() {
        _ if abort => Act::AbortResize,
        Some(to) => Act::Resize { to, drain_timeout },
        None => bail!("say how many: --partitions N"),
    };
    // It hides itself where there is no terminal.
    let style = ProgressStyle::with_template(SETTLING)?.progress_chars("=> ");
    let bar = ProgressBar::new(0).with_style(style);
    let operations = stores::operations(store, running).await?;
    let operations = operations.with_on_drain({
        let bar = bar.clone();
        move |DrainProgress { waiting, has_workers }| {
            bar.set_length(bar.length().unwrap_or(0).max(waiting));
            bar.set_position(bar.length().unwrap_or(0) - waiting);
            bar.set_message(if has_workers { "" } else { "no worker lives: start one" });
        }
    });
    let performed = operations.perform(&act, &by).await;
    bar.finish_and_clear();
    match performed? {
        Ok(answer) => {
            for line in answer.sentence.lines() {
                writeln!(stdout(), "{}", shown(line))?;
            }
            ensure!(answer.complete, "what was left of earlier streams stays: run it again");
            Ok(())
        }
        Err(refusal) => bail!(refusal.sentence().to_owned()),
    }
}
