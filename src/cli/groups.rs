//! `paystream groups`: lists, registers and retires consumer groups of others
//! on our streams. Never touches `ledger`, which is ours.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Context;
use clap::{
    Subcommand,
    builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser},
};
use serde_json::json;

use super::{
    ActorArgs, Output, Running, stores,
    table::{Column, cell, listing, number, seconds},
};
use crate::{
    config::StoreConfig,
    operations::{Act, Group, Operations, Signature, group_name},
    stream::StartsFrom,
};

#[derive(Subcommand, Clone, Debug)]
pub enum GroupsCommand {
    /// Show every group, how far it is, and whether it holds trimming; exits 1
    /// when one of them needs an operator
    List {
        #[command(flatten)]
        store: StoreConfig,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Let trimming wait for a group, and create it on every stream; again where
    /// it is missing
    Register {
        #[command(flatten)]
        store: StoreConfig,
        /// The group's name in Redis.
        #[arg(value_parser = group_name)]
        name: String,
        /// Where it begins on the streams on which it is missing: with the oldest
        /// entry that is kept, or with the next one that is appended.
        #[arg(long, default_value = "start", value_parser = starts())]
        from: StartsFrom,
        /// Whose it is and what for.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        note: String,
        #[command(flatten)]
        actor: ActorArgs,
        /// Print one JSON document instead of a sentence.
        #[arg(long)]
        json: bool,
    },
    /// Let trimming go on without a group, and remove it from every stream;
    /// exits 1 and changes nothing when entries wait for it, unless --yes
    Retire {
        #[command(flatten)]
        store: StoreConfig,
        /// The group's name in Redis.
        #[arg(value_parser = group_name)]
        name: String,
        /// Retire it although entries wait for it: it will not see them.
        #[arg(long)]
        yes: bool,
        /// Why.
        #[arg(long)]
        note: Option<String>,
        #[command(flatten)]
        actor: ActorArgs,
        /// Print one JSON document instead of a sentence.
        #[arg(long)]
        json: bool,
    },
}

fn starts() -> impl TypedValueParser<Value = StartsFrom> {
    PossibleValuesParser::new(["start", "now"]).try_map(|name| name.parse())
}

impl GroupsCommand {
    pub(super) async fn run(self, running: Running) -> anyhow::Result<Output> {
        match self {
            Self::List { store, json } => {
                let operations = stores::operations(store, running).await?;
                let groups = operations.groups().await;
                Ok(list(&operations, &groups.context("could not read the groups")?, json))
            }
            Self::Register { store, name, from, note, actor, json } => {
                let operations = stores::operations(store, running).await?;
                let by = Signature { actor: actor.name()?, reason: note };
                super::perform(&operations, &Act::RegisterGroup { name, from }, &by, json).await
            }
            Self::Retire { store, name, yes, note, actor, json } => {
                let operations = stores::operations(store, running).await?;
                let by = Signature { actor: actor.name()?, reason: note.unwrap_or_default() };
                let act = Act::RetireGroup { name, force: yes };
                super::perform(&operations, &act, &by, json).await
            }
        }
    }
}

fn list(operations: &Operations, groups: &[Group], json: bool) -> Output {
    let registered = |group: &Group| match &group.starts_from {
        Some(from) => format!("from {from}"),
        None if group.is_ours() => "always".to_owned(),
        None => "NO".to_owned(),
    };
    let oldest = |group: &Group| group.oldest_waiting_seconds.map_or("-".to_owned(), seconds);
    let columns: &[Column<'_, Group>] = &[
        ("group", &|group| cell(&group.name)),
        ("registered", &|group| cell(registered(group))),
        ("missing on", &|group| cell(partitions(&group.missing_on))),
        ("lag", &|group| number(group.lag)),
        ("pending", &|group| number(group.pending)),
        ("oldest waiting", &|group| number(oldest(group))),
        ("pins trimming on", &|group| cell(partitions(&group.pins_trimming_on))),
        ("note", &|group| cell(group.note.as_deref().unwrap_or_default())),
    ];
    let text = match json {
        true => {
            let partitions = operations.partitions();
            format!("{:#}\n", json!({ "partitions": partitions, "groups": groups }))
        }
        false => listing(groups, false, "", columns),
    };
    (text, ExitCode::from(u8::from(!groups.iter().all(Group::is_in_order))))
}

fn partitions(partitions: &BTreeSet<u16>) -> String {
    match partitions.len() {
        0 => "-".to_owned(),
        1 => "1 partition".to_owned(),
        many => format!("{many} partitions"),
    }
}
