//! Consumer groups of others on our streams: where each stands, registered and
//! retired. Never touches `ledger`, which is ours.
//!
//! The registry in PostgreSQL is changed first and Redis second. Interrupted in
//! between, a group that is being registered is in the registry and missing on
//! some streams, and one that is being retired is on some streams and not in
//! the registry: both hold trimming, so nothing is lost that either was
//! promised, and the same act again goes on. The other way round, streams that a
//! new group has not reached yet would be trimmed meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use super::{Answer, Error, Operations, Signature, error::Context, shapes::counted};
use crate::{
    domain::StreamId,
    ledger::GroupRow,
    stream::{GROUP, GroupPosition, OtherGroups, StartsFrom},
};

#[derive(Clone, Debug, Default, Serialize)]
pub struct Group {
    pub name: String,
    /// Ours always is.
    pub registered: bool,
    pub registered_at: Option<DateTime<Utc>>,
    pub starts_from: Option<String>,
    pub note: Option<String>,
    /// Partitions without it.
    pub missing_on: BTreeSet<u16>,
    /// Entries it has not been handed yet.
    pub lag: i64,
    /// Entries handed out and not acknowledged.
    pub pending: i64,
    /// Since the first entry that waits for it was appended.
    pub oldest_waiting_seconds: Option<u64>,
    /// Partitions on which entries are kept only for it.
    pub pins_trimming_on: BTreeSet<u16>,
    /// Partitions with it.
    #[serde(skip)]
    pub(super) on: BTreeSet<u16>,
    /// Entries that it has not acknowledged and ours has.
    #[serde(skip)]
    pub(super) kept: i64,
    /// The first of them.
    #[serde(skip)]
    pub(super) kept_since: Option<StreamId>,
}

impl Group {
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name == GROUP
    }

    /// Whether no operator needs to look at it.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.registered && self.missing_on.is_empty()
    }

    fn new(name: String, row: Option<GroupRow>, partitions: u16) -> Self {
        Self {
            registered: name == GROUP || row.is_some(),
            name,
            registered_at: row.as_ref().map(|row| row.registered_at),
            starts_from: row.as_ref().map(|row| row.starts_from.clone()),
            note: row.map(|row| row.note),
            missing_on: (0..partitions).collect(),
            ..Self::default()
        }
    }
}

impl Operations {
    /// Every group that is registered or on a stream, by name, ours first.
    pub async fn groups(&self) -> Result<Vec<Group>, Error> {
        let registered = self.groups.registered().await?;
        let standings = self.looks().await?.upkeep.standings().await?;
        Ok(groups(registered, standings, self.topology.partitions, (self.clock)()))
    }

    async fn group(&self, name: &str) -> Result<Option<Group>, Error> {
        Ok(self.groups().await?.into_iter().find(|group| group.name == name))
    }

    async fn others(&self) -> Result<OtherGroups, Error> {
        Ok(self.streams.other_groups().await?)
    }

    /// Registers a group and creates it where it is missing. The reason is whose it
    /// is and what for.
    pub(super) async fn register_group(
        &self,
        name: &str,
        from: StartsFrom,
        by: &Signature,
    ) -> Result<Answer, Error> {
        let (others, known) = (self.others().await?, self.group(name).await?);
        let already = known.as_ref().is_some_and(|group| group.registered);
        let complete = known.is_some_and(|group| group.is_in_order());
        let mut created = 0;
        if !complete {
            let registrar = self.ledger.group_registrar();
            registrar.register(name, from.as_str(), &by.reason, &by.actor).await?;
            created = others.create(name, from).await.context(
                "the group is registered but not on every stream, which are not trimmed until it \
                 is: run this again",
            )?;
        }
        let partitions = self.topology.partitions;
        let sentence = if complete {
            format!("{name} is registered and on all {partitions} partitions; nothing to do")
        } else {
            let what = if already { "was registered" } else { "is registered" };
            let on = match created == i64::from(partitions) {
                true => format!("all {partitions} partitions"),
                false => format!("{created} of {partitions} partitions and there on the others"),
            };
            format!("{name} {what}, created on {on}; trimming waits for it")
        };
        let facts = json!({
            "group": name, "already_registered": already, "created_on": created,
            "partitions": partitions,
        });
        Ok(Answer::done("register_group", sentence, facts))
    }

    /// Retires a group and removes it from every stream, unless entries wait for it
    /// and nobody forces it.
    pub(super) async fn retire_group(
        &self,
        name: &str,
        force: bool,
        by: &Signature,
    ) -> Result<Answer, Error> {
        let (others, group) = (self.others().await?, self.group(name).await?);
        let Some(Group { registered, lag: unread, pending, .. }) = group else {
            let sentence = format!("{name} is neither registered nor on a stream; nothing to do");
            let facts = json!({ "group": name, "retired": false, "registered": false });
            return Ok(Answer::done("retire_group", sentence, facts));
        };
        let retires = force || (unread == 0 && pending == 0);
        let mut removed = 0;
        if retires {
            let note = Some(&*by.reason).filter(|reason| !reason.is_empty());
            let registrar = self.ledger.group_registrar();
            registrar.retire(name, note, &by.actor, unread, pending).await?;
            removed = others.remove(name).await.context(
                "the group is retired but still on some streams, for which trimming waits: run \
                 this again",
            )?;
        }
        let entries = counted(unread, "entry", "entries");
        let waits = format!("{entries} it has not read, and {pending} it has not acknowledged");
        let sentence = match retires {
            true => {
                let from = counted(removed, "partition", "partitions");
                format!("{name} is retired and removed from {from}; there were {waits}")
            }
            false => format!(
                "{name} is not retired: there are {waits}. Retire it all the same with --yes"
            ),
        };
        let facts = json!({
            "group": name, "retired": retires, "registered": registered,
            "removed_from": removed, "unread": unread, "unacknowledged": pending,
        });
        match retires {
            true => Ok(Answer::done("retire_group", sentence, facts)),
            false => Ok(Answer::undone("retire_group", sentence, facts)),
        }
    }
}

pub(super) fn groups(
    registered: Vec<GroupRow>,
    standings: Vec<GroupPosition>,
    partitions: u16,
    now: DateTime<Utc>,
) -> Vec<Group> {
    let ours = standings.iter().filter(|standing| standing.group == GROUP);
    let ours: BTreeMap<u16, (StreamId, i64)> =
        ours.map(|one| (one.partition, (one.floor, one.lag + one.pending))).collect();
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for row in registered {
        groups.insert(row.name.clone(), Group::new(row.name.clone(), Some(row), partitions));
    }
    groups.insert(GROUP.to_owned(), Group::new(GROUP.to_owned(), None, partitions));
    for GroupPosition { partition, group: name, lag, pending, oldest_waiting, floor, .. } in
        standings
    {
        let new = || Group::new(name.clone(), None, partitions);
        let group = groups.entry(name.clone()).or_insert_with(new);
        group.missing_on.remove(&partition);
        group.on.insert(partition);
        group.lag += lag;
        group.pending += pending;
        let waiting = oldest_waiting.map(|id| id.age_seconds(now));
        group.oldest_waiting_seconds = group.oldest_waiting_seconds.max(waiting);
        if let Some((_, left)) = ours.get(&partition).filter(|(ours, _)| floor < *ours) {
            group.pins_trimming_on.insert(partition);
            group.kept += (lag + pending - left).max(0);
            group.kept_since = group.kept_since.into_iter().chain(oldest_waiting).min();
        }
    }
    for group in groups.values_mut().filter(|group| group.registered && !group.is_ours()) {
        group.pins_trimming_on.extend(&group.missing_on);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| !group.is_ours());
    groups
}
