//! `paystream groups`: lists, registers and retires consumer groups of others
//! on our streams. Never touches `ledger`, which is ours.
//!
//! The registry in PostgreSQL is changed first and Redis second. Interrupted in
//! between, a group that is being registered is in the registry and missing on
//! some streams, and one that is being retired is on some streams and not in
//! the registry: both hold trimming, so nothing is lost that either was
//! promised, and the same command again goes on. The other way round, streams
//! that a new group has not reached yet would be trimmed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{
    Args, Subcommand,
    builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser},
};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::{Actor, Running, stores};
use crate::{
    clock,
    config::StoreConfig,
    domain::{StreamId, shown},
    ledger::{GroupRow, Ledger, Topology},
    stream::{GROUP, OtherGroups, Standing, StartsFrom},
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

fn group_name(name: &str) -> Result<String, String> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if name == GROUP {
        return Err(format!("{GROUP} is ours: it is always registered and never retired"));
    }
    if !(1..=64).contains(&name.len()) || !name.bytes().all(fits) {
        return Err("a group has 1 to 64 letters, digits, dots, hyphens and underscores".to_owned());
    }
    Ok(name.to_owned())
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
            Self::Register(mut args) => {
                args.store = args.store.or(running);
                register(args).await?
            }
            Self::Retire(mut args) => {
                args.store = args.store.or(running);
                retire(args).await?
            }
        };
        writeln!(std::io::stdout(), "{text}").context("could not write the answer")?;
        Ok(code)
    }
}

/// What may be changed, and how it stands.
async fn look(store: &StoreConfig) -> anyhow::Result<(OtherGroups, Ledger, Vec<Group>, u16)> {
    let (streams, ledger, Topology { partitions, .. }) = stores::open(store).await?;
    let registered = ledger.groups().registered().await.context("could not read the registry")?;
    let upkeep = streams.upkeep().await.context("could not reach Redis")?;
    let standings = upkeep.standings().await.context("could not read the streams")?;
    let others = streams.other_groups().await.context("could not reach Redis")?;
    Ok((others, ledger, groups(registered, standings, partitions), partitions))
}

async fn list(args: &ListArgs) -> anyhow::Result<(String, ExitCode)> {
    let (_, _, groups, partitions) = look(&args.store).await?;
    let now = clock::system();
    let text = if args.json {
        let groups: Vec<Value> = groups.iter().map(|group| group.document(now)).collect();
        format!("{:#}", json!({ "partitions": partitions, "groups": groups }))
    } else {
        table(&groups, now).to_string()
    };
    let in_order = groups.iter().all(Group::is_in_order);
    Ok((text, if in_order { ExitCode::SUCCESS } else { ExitCode::from(1) }))
}

async fn register(args: RegisterArgs) -> anyhow::Result<(String, ExitCode)> {
    let RegisterArgs { store, name, from, note, actor, json } = args;
    let actor = actor.name()?;
    let (others, ledger, groups, partitions) = look(&store).await?;
    let known = groups.into_iter().find(|group| group.name == name);
    let already = known.as_ref().is_some_and(|group| group.row.is_some());
    let complete = known.is_some_and(|group| group.missing.is_empty());
    let mut created = 0;
    if !(already && complete) {
        let registrar = ledger.group_registrar();
        let noted = registrar.register(&name, from.as_str(), &note, &actor).await;
        noted.context("could not register the group")?;
        created = others.create(&name, from).await.context(
            "the group is registered but not on every stream, which are not trimmed until it is: \
             run this again",
        )?;
    }
    let text = if json {
        let document = json!({
            "group": name, "already_registered": already, "created_on": created,
            "partitions": partitions,
        });
        format!("{document:#}")
    } else if already && complete {
        format!("{name} is registered and on all {partitions} partitions; nothing to do")
    } else {
        let what = if already { "was registered" } else { "is registered" };
        let on = match created == i64::from(partitions) {
            true => format!("all {partitions} partitions"),
            false => format!("{created} of {partitions} partitions and there on the others"),
        };
        format!("{name} {what}, created on {on}; trimming waits for it")
    };
    Ok((text, ExitCode::SUCCESS))
}

async fn retire(args: RetireArgs) -> anyhow::Result<(String, ExitCode)> {
    let RetireArgs { store, name, yes, note, actor, json } = args;
    let actor = actor.name()?;
    let (others, ledger, groups, _) = look(&store).await?;
    let Some(group) = groups.into_iter().find(|group| group.name == name) else {
        let text = format!("{name} is neither registered nor on a stream; nothing to do");
        let document = json!({ "group": name, "retired": false, "registered": false });
        return Ok((if json { format!("{document:#}") } else { text }, ExitCode::SUCCESS));
    };
    let was_registered = group.row.is_some();
    let (unread, pending) = (group.lag, group.pending);
    let waits = format!("{unread} entries it has not read, and {pending} it has not acknowledged");
    let retires = yes || (unread == 0 && pending == 0);
    let mut removed = 0;
    if retires {
        let registrar = ledger.group_registrar();
        let noted = registrar.retire(&name, note.as_deref(), &actor, unread, pending).await;
        noted.context("could not retire the group")?;
        removed = others.remove(&name).await.context(
            "the group is retired but still on some streams, for which trimming waits: run this \
             again",
        )?;
    }
    let text = if json {
        let document = json!({
            "group": name, "retired": retires, "registered": was_registered,
            "removed_from": removed, "unread": unread, "unacknowledged": pending,
        });
        format!("{document:#}")
    } else if retires {
        format!("{name} is retired and removed from {removed} partitions; there were {waits}")
    } else {
        format!("{name} is not retired: there are {waits}. Retire it all the same with --yes")
    };
    Ok((text, if retires { ExitCode::SUCCESS } else { ExitCode::from(1) }))
}

/// One group on all partitions.
struct Group {
    name: String,
    /// Its place in the registry; ours has none.
    row: Option<GroupRow>,
    /// Partitions without it.
    missing: BTreeSet<u16>,
    /// Entries it has not been handed yet.
    lag: i64,
    /// Entries handed out and not acknowledged.
    pending: i64,
    /// When the first entry that waits for it was appended.
    oldest_waiting: Option<StreamId>,
    /// Partitions on which entries are kept only for it.
    holds: BTreeSet<u16>,
}

/// Every group that is registered or on a stream, by name, ours first.
fn groups(registered: Vec<GroupRow>, standings: Vec<Standing>, partitions: u16) -> Vec<Group> {
    let group = |name: &str, row| Group {
        name: name.to_owned(),
        row,
        missing: (0..partitions).collect(),
        lag: 0,
        pending: 0,
        oldest_waiting: None,
        holds: BTreeSet::new(),
    };
    let ours: BTreeMap<u16, _> = standings
        .iter()
        .filter(|standing| standing.group == GROUP)
        .map(|standing| (standing.partition, standing.floor))
        .collect();
    let mut groups: BTreeMap<String, Group> = registered
        .into_iter()
        .map(|row| (row.name.clone(), group(&row.name.clone(), Some(row))))
        .collect();
    groups.insert(GROUP.to_owned(), group(GROUP, None));
    for Standing { partition, group: name, lag, pending, oldest_waiting, floor } in standings {
        let group = groups.entry(name.clone()).or_insert_with(|| group(&name, None));
        group.missing.remove(&partition);
        group.lag += lag;
        group.pending += pending;
        group.oldest_waiting = group.oldest_waiting.into_iter().chain(oldest_waiting).min();
        if ours.get(&partition).is_some_and(|ours| floor < *ours) {
            group.holds.insert(partition);
        }
    }
    for group in groups.values_mut().filter(|group| group.row.is_some()) {
        group.holds.extend(&group.missing);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| group.name != GROUP);
    groups
}

impl Group {
    fn is_ours(&self) -> bool {
        self.name == GROUP
    }

    /// Whether no operator needs to look at it.
    fn is_in_order(&self) -> bool {
        (self.is_ours() || self.row.is_some()) && self.missing.is_empty()
    }

    fn document(&self, now: DateTime<Utc>) -> Value {
        let row = self.row.as_ref();
        json!({
            "name": self.name,
            "registered": self.is_ours() || row.is_some(),
            "registered_at": row.map(|row| row.registered_at),
            "starts_from": row.map(|row| &row.starts_from),
            "note": row.map(|row| &row.note),
            "missing_on": self.missing,
            "lag": self.lag,
            "pending": self.pending,
            "oldest_waiting_seconds": self.oldest_waiting.map(|id| id.age_seconds(now)),
            "pins_trimming_on": self.holds,
        })
    }
}

fn table(groups: &[Group], now: DateTime<Utc>) -> Table {
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
        let row = group.row.as_ref();
        let registered = match row {
            Some(row) => format!("from {}", row.starts_from),
            None if group.is_ours() => "always".to_owned(),
            None => "NO".to_owned(),
        };
        table.add_row([
            shown(&group.name),
            shown(&registered),
            partitions(&group.missing),
            group.lag.to_string(),
            group.pending.to_string(),
            group.oldest_waiting.map_or("-".to_owned(), |id| seconds(id.age_seconds(now))),
            partitions(&group.holds),
            row.map_or(String::new(), |row| shown(&row.note)),
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
