//! Judges what waits: in the streams, and in the ledger for somebody to deal
//! with. Pure: counts go in, findings come out.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::words::{counted, numbered, since};
use crate::{
    ledger::{DamagedAccount, Pile, RetriedEntry, Topology, Work},
    operations::{
        Severity::{self, Critical, Notice, Warning},
        finding::{self as kind, Finding, Kind},
        shapes::{Money, span},
    },
    stream::{GROUP, KEPT_MAX, Presence, Standing},
};

/// Entries that may wait on all partitions together.
const WAITING_MAX: i64 = 10_000;
/// An entry that has waited for longer is a warning,
pub(super) const OLD: Duration = Duration::from_secs(60);
/// and for longer than this critical.
const VERY_OLD: Duration = Duration::from_secs(300);
/// Share of the backlog's limit, in percent.
const BACKLOG_CRITICAL: i64 = 80;
/// What lies in suspense or in conflict for longer was forgotten.
const FORGOTTEN: TimeDelta = TimeDelta::days(1);
/// A change of the topology takes no longer.
const RESIZING: TimeDelta = TimeDelta::minutes(5);

/// What waits in the streams for our group.
pub(super) fn waiting(
    standings: &[Standing],
    presence: &[Presence],
    backlog_max: Option<u32>,
    now: DateTime<Utc>,
) -> Vec<Finding> {
    let ours: Vec<&Standing> = standings.iter().filter(|one| one.group == GROUP).collect();
    vec![backlog(&ours, presence, backlog_max), lagging(&ours, now), pending(&ours, now)]
}

/// The same finding while the ledger cannot be read: nothing is settled then, and
/// more workers would not help.
pub(super) fn without_ledger(finding: Finding) -> Finding {
    if finding.severity == Severity::Good {
        return finding;
    }
    let advice = "nothing is settled while the ledger cannot be read: see what is said of \
                  PostgreSQL; workers go on by themselves";
    Finding { advice: advice.to_owned(), ..finding }
}

/// Partitions in which an entry has waited for long.
pub(super) fn waiting_long(standings: &[Standing], now: DateTime<Utc>) -> Vec<u16> {
    let ours = standings.iter().filter(|one| one.group == GROUP);
    ours.filter(|one| age(one, now) > OLD).map(|one| one.partition).collect()
}

fn age(standing: &Standing, now: DateTime<Utc>) -> Duration {
    Duration::from_secs(standing.oldest_waiting.map_or(0, |id| id.age_seconds(now)))
}

fn backlog(ours: &[&Standing], presence: &[Presence], backlog_max: Option<u32>) -> Finding {
    let max = backlog_max.map_or(i64::MAX / 100, i64::from);
    let nearly = |count: i64, max: i64| count >= max.saturating_mul(BACKLOG_CRITICAL) / 100;
    let full = |partition: u16, sentence: String, advice: &str| {
        let finding = kind::BACKLOG.found(Critical, sentence).advising(advice);
        finding.about(format!("partition {partition}"))
    };
    let unsettled = ours.iter().map(|one| (one.partition, one.lag + one.pending));
    if let Some((partition, count)) = unsettled.clone().max_by_key(|(_, count)| *count)
        && nearly(count, max)
    {
        let sentence = format!(
            "partition {partition} has {count} entries that are not settled; at {max} \
             (PAYSTREAM_BACKLOG_MAX) payments for it are refused"
        );
        return full(partition, sentence, "see what the payments wait for (below)");
    }
    let kept_max = max.saturating_mul(KEPT_MAX);
    if let Some(Presence { partition, length, .. }) = presence.iter().max_by_key(|one| one.length)
        && nearly(*length, kept_max)
    {
        let sentence = format!(
            "the stream of partition {partition} holds {length} entries, settled ones included; at \
             {kept_max} ({KEPT_MAX} times PAYSTREAM_BACKLOG_MAX) payments for it are refused"
        );
        let advice = "see why settled entries are kept: a group that pins trimming (`paystream \
                      groups list`) or a long PAYSTREAM_RETENTION";
        return full(*partition, sentence, advice);
    }
    let waits: i64 = unsettled.map(|(_, count)| count).sum();
    let sentence = format!("{waits} entries wait");
    let many = format!("{sentence}, more than {WAITING_MAX}");
    kind::BACKLOG.judge((waits > WAITING_MAX).then_some((Warning, many))).or(sentence)
}

/// What has not even been handed out.
fn lagging(ours: &[&Standing], now: DateTime<Utc>) -> Finding {
    late(kind::WAITING, ours.iter().filter(|one| one.pending == 0), now, |age, partitions| {
        format!("payments have waited for {age} on {partitions}")
    })
}

/// What was handed out and is not settled.
fn pending(ours: &[&Standing], now: DateTime<Utc>) -> Finding {
    late(kind::PENDING, ours.iter().filter(|one| one.pending > 0), now, |age, partitions| {
        format!(
            "entries on {partitions} were handed to a worker and are not settled, the oldest for \
             {age}"
        )
    })
}

fn late<'a>(
    kind: Kind,
    standings: impl Iterator<Item = &'a &'a Standing>,
    now: DateTime<Utc>,
    sentence: impl Fn(String, &str) -> String,
) -> Finding {
    let late: Vec<&&Standing> = standings.filter(|one| age(one, now) > OLD).collect();
    let Some(oldest) = late.iter().map(|one| age(one, now)).max() else { return kind.good() };
    let partitions: Vec<u16> = late.iter().map(|one| one.partition).collect();
    let named = numbered(&partitions);
    let severity = if oldest > VERY_OLD { Critical } else { Warning };
    kind.found(severity, sentence(span(oldest), &named)).about(named)
}

/// What lies in the ledger for operators.
pub(super) fn piles(work: &Work, now: DateTime<Utc>) -> Vec<Finding> {
    let Work { dead_letters, suspense, conflicts, parked, losses, .. } = work;
    let amount = Money(work.suspense_amount);
    let pile = |kind: Kind, pile: &Pile, severity, words: [&str; 4]| {
        let [start, one, many, end] = words;
        let count = counted(pile.count, pile.is_capped(), one, many);
        let oldest = pile.oldest.map_or(String::new(), |oldest| {
            format!("; the oldest for {}", span(since(oldest, now)))
        });
        let sentence = format!("{start}{count}{end}{oldest}");
        kind.judge((pile.count > 0).then_some((severity, sentence)))
    };
    let words = ["", "dead letter is", "dead letters are", " open"];
    let mut dead = pile(kind::DEAD, dead_letters, Warning, words);
    if dead_letters.count > 0 && !work.redrivable {
        dead = dead.advising(
            "`paystream dead-letters list`: none of them could be read. Find out who wrote them, \
             then `paystream dead-letters discard ID --reason \"…\"`",
        );
    }
    let held = format!(" held for customers nobody knows, {amount} together");
    let disputed = ["", "conflict is", "conflicts are", " open: one reference, two payments"];
    let wait = ["payments of ", "customer", "customers", " wait behind a dead letter"];
    let lost = " that nobody has dealt with: accepted payments are gone";
    let mut findings = vec![
        dead,
        pile(kind::SUSPENSE, suspense, aged(suspense, now), ["", "payment", "payments", &held]),
        pile(kind::CONFLICTS, conflicts, aged(conflicts, now), disputed),
        pile(kind::PARKED, parked, Warning, wait),
        pile(kind::LOSSES, losses, Critical, ["", "loss", "losses", lost]),
    ];
    findings.extend(damaged(&work.damaged));
    findings.extend(retried(&work.retried));
    findings
}

fn aged(pile: &Pile, now: DateTime<Utc>) -> Severity {
    let forgotten = pile.oldest.is_some_and(|oldest| now - oldest > FORGOTTEN);
    if forgotten { Warning } else { Notice }
}

fn damaged(accounts: &[DamagedAccount]) -> Vec<Finding> {
    if accounts.is_empty() {
        return vec![kind::ACCOUNT.good()];
    }
    let account = |DamagedAccount { customer_id, version, last, dead_letters }: &DamagedAccount| {
        let letters = counted(*dead_letters, false, "dead letter is", "dead letters are");
        let sentence = format!(
            "account {customer_id} stands at version {version}, but its statement goes on to \
             {last}: it was changed by hand or damaged; {letters} open for it"
        );
        let finding = kind::ACCOUNT.found(Critical, sentence).advising(format!(
            "compare the account with its statement (`paystream audit`) and correct the account; \
             then `paystream dead-letters redrive --customer {customer_id} --reason \"…\"`"
        ));
        finding.about(format!("account {customer_id}"))
    };
    accounts.iter().map(account).collect()
}

fn retried(entries: &[RetriedEntry]) -> Vec<Finding> {
    if entries.is_empty() {
        return vec![kind::POISON.good()];
    }
    let entry = |one: &RetriedEntry| {
        let RetriedEntry { partition, attempts, attempts_max, .. } = one;
        let which = if one.first_stream_id == one.last_stream_id {
            format!("entry {}", one.first_stream_id)
        } else {
            format!("entries {} to {}", one.first_stream_id, one.last_stream_id)
        };
        let why = one.error.as_deref().unwrap_or("no answer yet, or its worker died of it");
        let sentence = format!(
            "{which} of partition {partition} fails: attempt {attempts} of {attempts_max}, {why}"
        );
        let finding = kind::POISON.found(Warning, sentence).advising(format!(
            "mend the cause if it is not the entry's own; after {attempts_max} attempts it becomes \
             a dead letter and the others go on. `paystream pending --partition {partition}`"
        ));
        finding.about(format!("partition {partition}"))
    };
    entries.iter().map(entry).collect()
}

/// How the stream is cut, and whether that is changing.
pub(super) fn topology(topology: &Topology, work: &Work, now: DateTime<Utc>) -> Vec<Finding> {
    let partitions = format!("{} partitions", topology.partitions);
    let mut findings = vec![kind::TOPOLOGY.good().or(partitions), resizing(work, now)];
    if work.old_generations > 0 {
        let sentence =
            "streams of an earlier topology are still there: a group of others has not read them";
        findings.push(kind::OLD_STREAMS.found(Notice, sentence));
    }
    findings
}

fn resizing(work: &Work, now: DateTime<Utc>) -> Finding {
    let Some(to) = work.resizing_to else { return kind::RESIZE.good() };
    let age = work.resizing_since.map_or(TimeDelta::zero(), |since| now - since);
    let sentence = format!(
        "the number of partitions has been changing to {to} for {}; payments may be refused",
        span(age.to_std().unwrap_or_default())
    );
    kind::RESIZE.found(if age > RESIZING { Warning } else { Notice }, sentence).advising(format!(
        "`paystream topology show` says how far it is; if nobody is at it, run `paystream topology \
         resize --partitions {to}` again, or with --abort"
    ))
}

#[cfg(test)]
mod tests;
