//! Pending entries, page by page, joined with what the ledger knows of them, and
//! a summary of all of them by age. Never claims an entry.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use clap::Args;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    EntryName, Error, Money, Operations, Verdict,
    background::Background,
    page::page_size,
    verdict::{InLedger, Situation},
};
use crate::{
    domain::{Delivery, Reference},
    ledger::LockHolder,
    stream::{EntryBody, Pending, PendingCount},
};

#[derive(Args, Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PendingFilter {
    /// Only entries of this partition.
    #[arg(long)]
    #[param(maximum = 65535)]
    pub partition: Option<u16>,
    /// Only entries that have not been touched for at least this long; in seconds in the API.
    #[arg(long, value_parser = humantime::parse_duration)]
    #[serde(rename = "min_idle_seconds", deserialize_with = "seconds")]
    #[param(rename = "min_idle_seconds", value_type = Option<u32>, maximum = 4_294_967_295_u64)]
    pub min_idle: Option<Duration>,
    /// Only entries that this consumer holds.
    #[arg(long)]
    pub consumer: Option<String>,
    /// Only entries of this reference.
    #[arg(long)]
    pub reference: Option<String>,
    /// Cursor: `next` of the previous page.
    #[arg(long)]
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,4}(/[0-9]{1,13}-[0-9]{1,9})?$")]
    pub from: Option<EntryName>,
    /// 1 to 500; default 50.
    #[arg(skip)]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<i64>,
}

fn seconds<'de, D: Deserializer<'de>>(reading: D) -> Result<Option<Duration>, D::Error> {
    let seconds = Option::<u32>::deserialize(reading)?;
    Ok(seconds.map(|seconds| Duration::from_secs(seconds.into())))
}

/// An entry that was taken and is not acknowledged.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PendingEntry {
    pub partition: u16,
    pub stream_id: String,
    /// Its sequence; nothing when it cannot be read.
    pub sequence: Option<i64>,
    pub transaction_reference: Option<String>,
    pub customer_id: Option<String>,
    pub transaction_amount: Option<Money>,
    pub received_at: Option<DateTime<Utc>>,
    /// The worker it was handed to last.
    pub consumer: String,
    /// The worker that owns the partition now; nothing when nobody does, or
    /// while the ledger cannot be asked.
    pub owner: Option<String>,
    /// Whether that worker's lease runs; nothing while the ledger cannot be
    /// asked.
    pub owner_alive: Option<bool>,
    /// Milliseconds since it was handed out last.
    pub idle_ms: u64,
    /// How often it was handed out.
    pub deliveries: u64,
    /// Attempts beside the ordinary, so far.
    pub attempts: u32,
    /// Why it is pending, and what is safe to do.
    pub verdict: Verdict,
}

/// A page of pending entries.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PendingPage {
    pub entries: Vec<PendingEntry>,
    /// Where the next page begins; nothing on the last one.
    #[schema(value_type = Option<String>)]
    pub next: Option<EntryName>,
    /// Whether the ledger could be asked. Without it verdicts say so.
    pub ledger_available: bool,
    pub as_of: DateTime<Utc>,
}

/// All pending entries at a glance.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PendingSummary {
    /// Entries that were taken and are not acknowledged.
    pub pending: u64,
    /// Entries that no worker has taken yet; those of damaged streams are not
    /// counted.
    pub lag: u64,
    /// How many of the pending ones have been idle for how long.
    pub ages: Vec<AgeBucket>,
    /// How many each consumer holds.
    pub consumers: Vec<ConsumerShare>,
    /// Entries that were looked at for the ages; fewer than `pending` when there
    /// are very many.
    pub looked_at: u64,
    pub as_of: DateTime<Utc>,
}

/// Pending entries of one age.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AgeBucket {
    /// Idle for less than this many seconds; nothing for the last.
    pub below_seconds: Option<u64>,
    pub entries: u64,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConsumerShare {
    pub consumer: String,
    pub entries: u64,
}

/// Below how many seconds of idleness each bucket ends; the last has no end.
const BUCKETS: [u64; 6] = [1, 5, 10, 30, 60, 300];
/// Pending entries that one page looks through.
const LOOKED_THROUGH_MAX: usize = 20_000;
/// Pending entries that the summary looks through.
const SUMMED_MAX: u64 = 200_000;

impl Operations {
    /// A page of pending entries, from where the last one's `next` says. It may
    /// be short, or empty, and still have a `next`: it looks through no more than
    /// 20,000 entries.
    pub async fn pending(&self, filter: &PendingFilter) -> Result<PendingPage, Error> {
        let limit = usize::try_from(page_size(filter.limit)?).unwrap_or(usize::MAX);
        let there = |partition: &u16| *partition < self.topology.partitions;
        if let Some(partition) = filter.partition.filter(|partition| !there(partition)) {
            return Err(Error::Place(self.no_partition(partition.into())));
        }
        let (pending, next) = match &filter.reference {
            Some(reference) => (self.pending_of(reference, filter).await?, None),
            None => self.page_of(filter, limit).await?,
        };
        let background = self.background().await?;
        Ok(PendingPage {
            entries: self.judged(pending, background.as_ref()).await?,
            next,
            ledger_available: background.is_some(),
            as_of: (self.clock)(),
        })
    }

    async fn pending_of(
        &self,
        reference: &str,
        filter: &PendingFilter,
    ) -> Result<Vec<Pending>, Error> {
        let Ok(reference) = Reference::parse(reference) else { return Ok(Vec::new()) };
        let mut pending = Vec::new();
        for seen in self.seen(&reference).await? {
            let inspector = &self.looks().await?.inspector;
            let one = inspector.one(seen.partition, seen.stream_id).await?;
            pending.extend(one.filter(|entry| filter.takes(entry)));
        }
        Ok(pending)
    }

    /// Entries from a place on, and where the next page begins.
    async fn page_of(
        &self,
        filter: &PendingFilter,
        limit: usize,
    ) -> Result<(Vec<Pending>, Option<EntryName>), Error> {
        let inspector = &self.looks().await?.inspector;
        let EntryName { partition: first, stream_id: mut after } = filter.from.unwrap_or_default();
        let counts = (0..).zip(inspector.counts().await?).skip(usize::from(first));
        let counts = counts.filter(|(_, count)| count.pending > 0);
        let counts = counts.filter(|(p, _)| filter.partition.is_none_or(|wanted| wanted == *p));
        let (mut found, mut looked_through) = (Vec::new(), 0);
        for (partition, _) in counts {
            after = after.filter(|_| partition == first);
            loop {
                let consumer = filter.consumer.as_deref();
                let page = inspector.pending(partition, after, consumer).await?;
                let Some(last) = page.last().map(|entry| entry.id) else { break };
                for entry in page {
                    after = Some(entry.id);
                    looked_through += 1;
                    if filter.takes(&entry) {
                        found.push(entry);
                    }
                    if found.len() == limit {
                        return Ok((found, Some(EntryName { partition, stream_id: after })));
                    }
                }
                if looked_through >= LOOKED_THROUGH_MAX {
                    return Ok((found, Some(EntryName { partition, stream_id: Some(last) })));
                }
            }
        }
        Ok((found, None))
    }

    /// Entries with what they hold, what the ledger knows, and a verdict.
    pub(super) async fn judged(
        &self,
        pending: Vec<Pending>,
        background: Option<&Background>,
    ) -> Result<Vec<PendingEntry>, Error> {
        let places: Vec<_> = pending.iter().map(|entry| (entry.partition, entry.id)).collect();
        let bodies = self.looks().await?.inspector.bodies(&places).await?;
        let deliveries: Vec<Delivery> = bodies.iter().filter_map(delivery).cloned().collect();
        let settled = match background {
            Some(_) => self.if_there(self.admin.settled_among(&deliveries)).await?,
            None => None,
        };
        let settled = settled.unwrap_or_default();
        let customers: Vec<&str> = deliveries.iter().map(|d| d.payment.customer.as_str()).collect();
        let holders = self.if_there(self.admin.lock_holders(&customers)).await?.unwrap_or_default();
        let judged = pending.into_iter().zip(bodies).map(|(entry, body)| {
            let settled = settled.get(&(entry.partition, entry.id)).map(String::as_str);
            let known = background.map(|background| InLedger {
                lock: locked(&holders, &deliveries, entry.partition, delivery(&body)),
                ..background.around(entry.partition, settled)
            });
            let mut judged = judged(entry, &body, known);
            let table = holders.iter().find(|holder| holder.has_table);
            if let Some(holder) = table.filter(|_| judged.verdict.may_be_a_lock()) {
                judged.verdict = Verdict::of_table(holder);
            }
            judged
        });
        Ok(judged.collect())
    }

    /// All pending entries at a glance. `on_progress` hears how many were looked
    /// at, of how many.
    pub async fn pending_summary(
        &self,
        mut on_progress: impl FnMut(u64, u64),
    ) -> Result<PendingSummary, Error> {
        let looks = self.looks().await?;
        let counts = looks.inspector.counts().await?;
        let lag = looks.upkeep.all_depths().await?.iter().map(|depth| depth.lag).sum::<i64>();
        let pending: u64 = counts.iter().map(|count| count.pending).sum();
        let mut ages = [0; BUCKETS.len() + 1];
        let mut looked_at = 0;
        for (partition, _) in (0..).zip(&counts).filter(|(_, count)| count.pending > 0) {
            let mut after = None;
            while looked_at < SUMMED_MAX {
                let page = looks.inspector.pending(partition, after, None).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.id);
                for entry in &page {
                    let seconds = entry.idle.as_secs();
                    ages[BUCKETS.partition_point(|below| *below <= seconds)] += 1;
                    looked_at += 1;
                }
                on_progress(looked_at, pending.min(SUMMED_MAX));
            }
        }
        let bucket = |(number, entries): (usize, u64)| AgeBucket {
            below_seconds: BUCKETS.get(number).copied(),
            entries,
        };
        Ok(PendingSummary {
            pending,
            lag: u64::try_from(lag).unwrap_or(0),
            ages: ages.into_iter().enumerate().map(bucket).collect(),
            consumers: shares(counts),
            looked_at,
            as_of: (self.clock)(),
        })
    }
}

impl PendingFilter {
    fn takes(&self, entry: &Pending) -> bool {
        self.partition.is_none_or(|wanted| wanted == entry.partition)
            && self.min_idle.is_none_or(|least| entry.idle >= least)
            && self.consumer.as_ref().is_none_or(|wanted| *wanted == entry.consumer)
    }
}

fn delivery(body: &EntryBody) -> Option<&Delivery> {
    match body {
        EntryBody::Delivery(delivery) => Some(delivery),
        EntryBody::Unreadable(_) | EntryBody::Deleted => None,
    }
}

/// What an entry of this partition waits for, and who has it: its own account, that of
/// another entry that is settled with it, or the partition's fence row.
fn locked<'a>(
    holders: &'a [LockHolder],
    deliveries: &[Delivery],
    partition: u16,
    entry: Option<&Delivery>,
) -> Option<(String, &'a LockHolder)> {
    let others = deliveries.iter().filter(|other| other.partition == partition);
    let accounts = entry.into_iter().chain(others).map(|d| d.payment.customer.as_str());
    for account in accounts {
        let holder = holders.iter().find(|one| one.accounts.iter().any(|held| held == account));
        if let Some(holder) = holder {
            return Some((format!("account {account}"), holder));
        }
    }
    let row = |one: &&LockHolder| one.partitions.contains(&i32::from(partition));
    holders
        .iter()
        .find(row)
        .map(|holder| (format!("the fence row of partition {partition}"), holder))
}

fn judged(entry: Pending, body: &EntryBody, known: Option<InLedger<'_>>) -> PendingEntry {
    let Pending { partition, id, consumer, idle, deliveries } = entry;
    let unreadable = match body {
        EntryBody::Unreadable(unreadable) => Some(unreadable),
        EntryBody::Delivery(_) | EntryBody::Deleted => None,
    };
    let (owner, owner_alive) = match known.as_ref().map(|known| &known.owner) {
        Some(Some(owner)) => (Some(owner.name.to_owned()), Some(owner.is_alive())),
        Some(None) => (None, Some(false)),
        None => (None, None),
    };
    let trial = known.as_ref().and_then(|known| known.trial);
    let attempts = trial.filter(|trial| (trial.first..=trial.last).contains(&id));
    let attempts = attempts.map_or(0, |trial| trial.attempts);
    let situation = Situation {
        partition,
        id,
        unreadable: unreadable.map(|unreadable| unreadable.reason.as_str()),
        deleted: matches!(body, EntryBody::Deleted),
        consumer: &consumer,
        idle,
        ledger: known,
    };
    let verdict = situation.judge();
    let delivery = delivery(body);
    let payment = delivery.map(|delivery| &delivery.payment);
    PendingEntry {
        partition,
        stream_id: id.to_string(),
        sequence: delivery.map(|d| d.sequence).or(unreadable.and_then(|u| u.sequence)),
        transaction_reference: payment
            .map(|payment| payment.reference.as_str().to_owned())
            .or_else(|| unreadable.and_then(|unreadable| unreadable.reference.clone())),
        customer_id: payment.map(|payment| payment.customer.as_str().to_owned()),
        transaction_amount: payment.map(|payment| Money(payment.amount.get())),
        received_at: delivery.map(|delivery| delivery.received_at),
        owner,
        owner_alive,
        idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
        consumer,
        deliveries,
        attempts,
        verdict,
    }
}

/// What each consumer holds on all partitions, the most first.
fn shares(counts: Vec<PendingCount>) -> Vec<ConsumerShare> {
    let mut shares: BTreeMap<String, u64> = BTreeMap::new();
    for (consumer, entries) in counts.into_iter().flat_map(|count| count.consumers) {
        *shares.entry(consumer).or_default() += entries;
    }
    let share = |(consumer, entries)| ConsumerShare { consumer, entries };
    let mut shares: Vec<_> = shares.into_iter().map(share).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.entries));
    shares
}
