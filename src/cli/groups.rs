//! `paystream groups`: lists, registers and retires consumer groups of others
//! on our streams. Never touches `ledger`, which is ours.

use std::{collections::BTreeSet, io::Write, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{
    Args, Subcommand,
    builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser},
};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::{Actor, Running, stores};
use crate::{
    clock,
    config::StoreConfig,
    domain::shown,
    ledger::Topology,
    operations::{Act, Group, Operations, Signature, group_name},
    stream::StartsFrom,
};

/// What an operator does with other consumer groups.
#[derive(Subcommand, Clone, Debug)]
pub enum GroupsCommand {
    /// Show every group, how far it is, and whether it holds trimming; exits 1
    /// when one of them needs an operator
    List(ListArgs),
    /// Let trimming wait for a group, and create it on every stream; again where
    /// it is missing
    Register(RegisterArgs),
    /// Let trimming go on without a group, and remove it from every stream;
    /// exits 1 and changes nothing when entries wait for it, unless --yes
    Retire(RetireArgs),
}

/// What listing needs.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What registering needs.
#[derive(Args, Clone, Debug)]
pub struct RegisterArgs {
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
    /// The group's name in Redis.
    #[arg(value_parser = group_name)]
    pub name: String,
    /// Where it begins on the streams on which it is missing: with the oldest
    /// entry that is kept, or with the next one that is appended.
    #[arg(long, default_value = "start", value_parser = starts())]
    pub from: StartsFrom,
    /// Whose it is and what for.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub note: String,
    /// How it is noted in the audit log.
    #[command(flatten)]
    pub actor: Actor,
    /// Print one JSON document instead of a sentence.
    #[arg(long)]
    pub json: bool,
}

/// What retiring needs.
#[derive(Args, Clone, Debug)]
pub struct RetireArgs {
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
    /// The group's name in Redis.
    #[arg(value_parser = group_name)]
    pub name: String,
    /// Retire it although entries wait for it: it will not see them.
    #[arg(long)]
    pub yes: bool,
    /// Why.
    #[arg(long)]
    pub note: Option<String>,
    /// How it is noted in the audit log.
    #[command(flatten)]
    pub actor: Actor,
    /// Print one JSON document instead of a sentence.
    #[arg(long)]
    pub json: bool,
}

fn starts() -> impl TypedValueParser<Value = StartsFrom> {
    PossibleValuesParser::new(["start", "now"]).try_map(|name| name.parse())
}

impl GroupsCommand {
    /// Runs it on the configured stores, or on those of `running`.
    ///
    /// # Errors
    /// When a store cannot be reached; the same command again goes on.
    pub async fn run(self, running: Running) -> anyhow::Result<ExitCode> {
        let (text, code) = match self {
            Self::List(mut args) => {
                args.store = args.store.or(running);
                list(&args).await?
            }
            Self::Register(RegisterArgs { store, name, from, note, actor, json }) => {
                let (operations, _) = open(&store.or(running)).await?;
                let by = Signature { actor: actor.name()?, reason: note };
                let act = Act::RegisterGroup { name, from };
                super::perform(&operations, &act, &by, json).await?
            }
            Self::Retire(RetireArgs { store, name, yes, note, actor, json }) => {
                let (operations, _) = open(&store.or(running)).await?;
                let by = Signature { actor: actor.name()?, reason: note.unwrap_or_default() };
                let act = Act::RetireGroup { name, force: yes };
                super::perform(&operations, &act, &by, json).await?
            }
        };
        std::io::stdout().write_all(text.as_bytes()).context("could not write the answer")?;
        Ok(code)
    }
}

async fn list(args: &ListArgs) -> anyhow::Result<(String, ExitCode)> {
    let (operations, Topology { partitions, .. }) = open(&args.store).await?;
    let groups = operations.groups().await.context("could not see which groups there are")?;
    let text = match args.json {
        true => format!("{:#}\n", json!({ "partitions": partitions, "groups": groups })),
        false => format!("{}\n", table(&groups)),
    };
    let in_order = groups.iter().all(Group::is_in_order);
    Ok((text, ExitCode::from(u8::from(!in_order))))
}

async fn open(store: &StoreConfig) -> anyhow::Result<(Operations, Topology)> {
    let (streams, ledger, topology) = stores::open(store).await?;
    Ok((Operations::new(&streams, &ledger, &topology, clock::system), topology))
}

fn table(groups: &[Group]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "group",
        "registered",
        "missing on",
        "lag",
        "pending",
        "oldest waiting",
        "pins trimming on",
        "note",
    ]);
    for group in groups {
        let registered = match &group.starts_from {
            Some(from) => format!("from {from}"),
            None if group.is_ours() => "always".to_owned(),
            None => "NO".to_owned(),
        };
        table.add_row([
            shown(&group.name),
            shown(&registered),
            partitions(&group.missing_on),
            group.lag.to_string(),
            group.pending.to_string(),
            group.oldest_waiting_seconds.map_or("-".to_owned(), seconds),
            partitions(&group.pins_trimming_on),
            group.note.as_deref().map_or(String::new(), shown),
        ]);
    }
    for column in table.column_iter_mut().skip(3).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn partitions(partitions: &BTreeSet<u16>) -> String {
    match partitions.len() {
        0 => "-".to_owned(),
        1 => "1 partition".to_owned(),
        many => format!("{many} partitions"),
    }
}

/// As a person reads a time span.
pub(super) fn seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
