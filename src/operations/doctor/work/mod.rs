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
        shapes::{money, span},
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
    let unsettled = ours.iter().map(|one| (one.partition, one.lag + one.pending));
    if let Some((partition, count)) = unsettled.clone().max_by_key(|(_, count)| *count)
        && nearly(count, max)
    {
        return kind::BACKLOG.found(
            Critical,
            format!("partition {partition}"),
            format!(
                "partition {partition} has {count} entries that are not settled; at {max} \
                 (PAYSTREAM_BACKLOG_MAX) payments for it are refused"
            ),
            "see what the payments wait for (below)",
        );
    }
    let kept_max = max.saturating_mul(KEPT_MAX);
    if let Some(Presence { partition, length, .. }) = presence.iter().max_by_key(|one| one.length)
        && nearly(*length, kept_max)
    {
        return kind::BACKLOG.found(
            Critical,
            format!("partition {partition}"),
            format!(
                "the stream of partition {partition} holds {length} entries, settled ones \
                 included; at {kept_max} ({KEPT_MAX} times PAYSTREAM_BACKLOG_MAX) payments for it \
                 are refused"
            ),
            "see why settled entries are kept: a group that pins trimming (`paystream groups list`) \
             or a long PAYSTREAM_RETENTION",
        );
    }
    let waits: i64 = unsettled.map(|(_, count)| count).sum();
    let sentence = format!("{waits} entries wait");
    if waits <= WAITING_MAX {
        return kind::BACKLOG.good("streams", sentence);
    }
    kind::BACKLOG.found(
        Warning,
        "streams",
        format!("{sentence}, more than {WAITING_MAX}"),
        "`paystream partitions --watch`: if the lag falls, wait; if not, start more workers, or see \
         what the ones there wait for",
    )
}

fn severity(age: Duration) -> Severity {
    if age > VERY_OLD { Critical } else { Warning }
}

/// What has not even been handed out.
fn lagging(ours: &[&Standing], now: DateTime<Utc>) -> Finding {
    let late = ours.iter().filter(|one| one.pending == 0 && age(one, now) > OLD);
    let partitions: Vec<u16> = late.clone().map(|one| one.partition).collect();
    let Some(oldest) = late.map(|one| age(one, now)).max() else {
        return kind::WAITING.good("streams", "nothing has waited for longer than a minute");
    };
    kind::WAITING.found(
        severity(oldest),
        numbered(&partitions),
        format!("payments have waited for {} on {}", span(oldest), numbered(&partitions)),
        "`paystream partitions`: no living owner, start a worker; one that lives, see its log for \
         what it waits for",
    )
}

/// What was handed out and is not settled.
fn pending(ours: &[&Standing], now: DateTime<Utc>) -> Finding {
    let late = ours.iter().filter(|one| one.pending > 0 && age(one, now) > OLD);
    let partitions: Vec<u16> = late.clone().map(|one| one.partition).collect();
    let Some(oldest) = late.map(|one| age(one, now)).max() else {
        return kind::PENDING.good("streams", "nothing that was handed out is stuck");
    };
    kind::PENDING.found(
        severity(oldest),
        numbered(&partitions),
        format!(
            "entries on {} were handed to a worker and are not settled, the oldest for {}",
            numbered(&partitions),
            span(oldest)
        ),
        "`paystream pending` says of each why, and what is safe to do",
    )
}

/// What lies in the ledger for operators.
pub(super) fn piles(work: &Work, now: DateTime<Utc>) -> Vec<Finding> {
    let mut findings = vec![
        pile(kind::DEAD, "dead letters", &work.dead_letters, Warning, |what| {
            let advice = match work.redrivable {
                true => {
                    "`paystream dead-letters list`; when the cause is mended, `paystream \
                     dead-letters redrive ID --reason \"…\"`"
                }
                false => {
                    "`paystream dead-letters list`: none of them could be read. Find out who wrote \
                     them, then `paystream dead-letters discard ID --reason \"…\"`"
                }
            };
            (format!("{what} open"), advice)
        }),
        pile(kind::SUSPENSE, "suspense", &work.suspense, aged(&work.suspense, now), |what| {
            let amount = money(work.suspense_amount);
            (
                format!("{what} held for customers nobody knows, {amount} together"),
                "`paystream suspense list`; open the account, or `paystream suspense assign \
                 REFERENCE --customer ID --reason \"…\"`",
            )
        }),
        pile(kind::CONFLICTS, "conflicts", &work.conflicts, aged(&work.conflicts, now), |what| {
            (
                format!("{what} open: one reference, two payments"),
                "`paystream conflicts list`, ask the bank, `paystream conflicts resolve \
                 PARTITION/SEQUENCE --reason \"…\"`",
            )
        }),
        pile(kind::PARKED, "parked", &work.parked, Warning, |what| {
            (
                format!("payments of {what} wait behind a dead letter"),
                "deal with the dead letter, then `paystream parked release CUSTOMER --reason \"…\"`",
            )
        }),
        pile(kind::LOSSES, "losses", &work.losses, Critical, |what| {
            (
                format!("{what} that nobody has dealt with: accepted payments are gone"),
                "`paystream losses list` names their sequences: ask the clients whose answers have \
                 them to send those payments again; then `paystream losses accept --reason \"…\"`",
            )
        }),
    ];
    findings.extend(damaged(&work.damaged));
    findings.extend(retried(&work.retried));
    for finding in &mut findings {
        let oldest = match finding.subject.as_str() {
            "dead letters" => work.dead_letters.oldest,
            "suspense" => work.suspense.oldest,
            "conflicts" => work.conflicts.oldest,
            "parked" => work.parked.oldest,
            "losses" => work.losses.oldest,
            _ => None,
        };
        if let Some(oldest) = oldest {
            let age = span(since(oldest, now));
            finding.sentence = format!("{}; the oldest for {age}", finding.sentence);
        }
    }
    findings
}

fn aged(pile: &Pile, now: DateTime<Utc>) -> Severity {
    let forgotten = pile.oldest.is_some_and(|oldest| now - oldest > FORGOTTEN);
    if forgotten { Warning } else { Notice }
}

fn pile(
    kind: Kind,
    subject: &str,
    pile: &Pile,
    severity: Severity,
    words: impl Fn(String) -> (String, &'static str),
) -> Finding {
    if pile.count == 0 {
        return kind.good(subject, "none");
    }
    let (one, many) = match subject {
        "dead letters" => ("dead letter is", "dead letters are"),
        "suspense" => ("payment", "payments"),
        "conflicts" => ("conflict is", "conflicts are"),
        "parked" => ("customer", "customers"),
        _ => ("loss", "losses"),
    };
    let (sentence, advice) = words(counted(pile.count, pile.is_capped(), one, many));
    kind.found(severity, subject, sentence, advice)
}

fn damaged(accounts: &[DamagedAccount]) -> Vec<Finding> {
    if accounts.is_empty() {
        return vec![kind::ACCOUNT.good("accounts", "no dead letter is of a damaged account")];
    }
    let account = |DamagedAccount { customer_id, version, last, dead_letters }: &DamagedAccount| {
        let letters = counted(*dead_letters, false, "dead letter is", "dead letters are");
        kind::ACCOUNT.found(
            Critical,
            format!("account {customer_id}"),
            format!(
                "account {customer_id} stands at version {version}, but its statement goes on to \
                 {last}: it was changed by hand or damaged; {letters} open for it"
            ),
            format!(
                "compare the account with its statement (`paystream audit`) and correct the \
                 account; then `paystream dead-letters redrive --customer {customer_id} --reason \
                 \"…\"`"
            ),
        )
    };
    accounts.iter().map(account).collect()
}

fn retried(entries: &[RetriedEntry]) -> Vec<Finding> {
    if entries.is_empty() {
        return vec![kind::POISON.good("entries", "none fails")];
    }
    let entry = |one: &RetriedEntry| {
        let RetriedEntry { partition, attempts, attempts_max, .. } = one;
        let which = if one.first_stream_id == one.last_stream_id {
            format!("entry {}", one.first_stream_id)
        } else {
            format!("entries {} to {}", one.first_stream_id, one.last_stream_id)
        };
        let why = one.error.as_deref().unwrap_or("no answer yet, or its worker died of it");
        kind::POISON.found(
            Warning,
            format!("partition {partition}"),
            format!(
                "{which} of partition {partition} fails: attempt {attempts} of {attempts_max}, {why}"
            ),
            format!(
                "mend the cause if it is not the entry's own; after {attempts_max} attempts it \
                 becomes a dead letter and the others go on. `paystream pending --partition \
                 {partition}`"
            ),
        )
    };
    entries.iter().map(entry).collect()
}

/// How the stream is cut, and whether that is changing.
pub(super) fn topology(topology: &Topology, work: &Work, now: DateTime<Utc>) -> Vec<Finding> {
    let mut findings = vec![
        kind::TOPOLOGY.good("topology", format!("{} partitions", topology.partitions)),
        resizing(work, now),
    ];
    if work.old_generations > 0 {
        findings.push(kind::OLD_STREAMS.found(
            Notice,
            "topology",
            "streams of an earlier topology are still there: a group of others has not read them",
            "when it has, run `paystream topology resize` again with the number there is",
        ));
    }
    findings
}

fn resizing(work: &Work, now: DateTime<Utc>) -> Finding {
    let Some(to) = work.resizing_to else {
        return kind::RESIZE.good("topology", "is not being changed");
    };
    let age = work.resizing_since.map_or(TimeDelta::zero(), |since| now - since);
    let severity = if age > RESIZING { Warning } else { Notice };
    kind::RESIZE.found(
        severity,
        "topology",
        format!(
            "the number of partitions has been changing to {to} for {}; payments may be refused",
            span(age.to_std().unwrap_or_default())
        ),
        format!(
            "`paystream topology show` says how far it is; if nobody is at it, run `paystream \
             topology resize --partitions {to}` again, or with --abort"
        ),
    )
}

#[cfg(test)]
mod tests;
