//! `paystream topology`: shows how the stream is cut, cuts it anew, and takes it to another Redis.

use std::{
    io::{Write, stdout},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use serde_json::json;

use super::{ActorArgs, Running, plain, stores};
use crate::{
    clock,
    config::StoreConfig,
    domain::shown,
    ledger::Topology,
    operations::{Act, DrainProgress, Operations, Signature, open_streams, under_way},
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
    /// Take the streams to another Redis, or from one server to a cluster; run it again to go on
    /// where it stopped
    Move(MoveArgs),
}

#[derive(Args, Clone, Debug)]
struct ResizeArgs {
    /// Where it is; its number of partitions is the wanted one.
    #[command(flatten)]
    store: StoreConfig,
    /// Give up a change that has not been switched to, and take payments again.
    #[arg(long)]
    abort: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args, Clone, Debug)]
struct MoveArgs {
    /// Where it is.
    #[command(flatten)]
    store: StoreConfig,
    /// The Redis that `topology move` takes the streams to, written like PAYSTREAM_REDIS_URL.
    #[arg(long, env = "PAYSTREAM_TO_REDIS_URL", hide_env_values = true)]
    to_redis_url: SecretString,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args, Clone, Debug)]
struct ChangeArgs {
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
        TopologyCommand::Move(args) => move_to(args, running).await,
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
            "{partitions} partitions, generation {generation}, in {currency}\n{}",
            under_way(partitions, to)
        ),
    };
    Ok(writeln!(stdout(), "{text}")?)
}

async fn resize(args: ResizeArgs, running: Running) -> anyhow::Result<()> {
    let ResizeArgs { mut store, abort, change } = args;
    let drain_timeout = change.drain_timeout;
    let act = match store.partitions.take() {
        _ if abort => Act::AbortResize,
        Some(to) => Act::Resize { to, drain_timeout },
        None => bail!("say how many: --partitions N"),
    };
    perform(stores::operations(store, running).await?, act, change).await
}

async fn move_to(args: MoveArgs, running: Running) -> anyhow::Result<()> {
    let MoveArgs { store, to_redis_url, change } = args;
    let store = store.or(running);
    let (streams, ledger, topology) = stores::open(&store).await?;
    let new = StoreConfig { redis_url: Some(to_redis_url), redis_url_file: None, ..store };
    let new = open_streams(&new, topology.partitions, topology.generation)
        .context("--to-redis-url cannot be used")?;
    let act = Act::Resize { to: topology.partitions, drain_timeout: change.drain_timeout };
    let operations = Operations::new(&streams, &ledger, &topology, clock::system).moving_to(new);
    perform(operations, act, change).await
}

async fn perform(operations: Operations, act: Act, change: ChangeArgs) -> anyhow::Result<()> {
    let ChangeArgs { reason, actor, .. } = change;
    let reason = reason.unwrap_or_default();
    plain("--reason", &reason)?;
    let by = Signature { actor: actor.name()?, reason };
    // It hides itself where there is no terminal.
    let style = ProgressStyle::with_template(SETTLING)?.progress_chars("=> ");
    let bar = ProgressBar::new(0).with_style(style);
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
