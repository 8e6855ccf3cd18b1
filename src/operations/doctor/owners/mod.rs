//! Judges who owns the partitions: whether somebody lives, does, and gets on
//! with it. Pure: the registry goes in, findings come out.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::words::{numbered, since};
use crate::{
    ledger::{CursorRow, WorkerRow},
    operations::{
        Severity::{Critical, Good, Notice, Warning},
        finding::{self as kind, Finding},
        shapes::{last_owners, span},
    },
};

/// A partition that moves is without an owner for a moment.
const UNOWNED: TimeDelta = TimeDelta::seconds(5);
/// Shares even out within this time of the last move.
const SETTLING: TimeDelta = TimeDelta::seconds(30);
/// An owner comes to the end of its batch within this time.
const FOLLOWING: TimeDelta = TimeDelta::seconds(10);

/// Who owns what, and since when who has been asked to release it.
pub(super) fn judge(
    workers: &[WorkerRow],
    cursors: &[CursorRow],
    releases: &[(i32, DateTime<Utc>)],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let living = workers.iter().filter(|worker| worker.is_alive()).count();
    if living == 0 {
        findings.push(nobody(workers));
    } else {
        findings.push(kind::NO_WORKER.good().or(format!("{living} live")));
        findings.push(unowned(cursors));
        findings.push(uneven(workers, cursors));
    }
    let silent = silent(workers).into_iter();
    findings.extend(silent.filter(|one| living > 0 || one.severity > Good));
    findings.push(ignored(cursors, releases));
    findings
}

/// Who owns what while the ledger does not say; Redis was `told` of these.
pub(super) fn unknown(told: &[Option<String>]) -> Finding {
    let last = last_owners(told.iter().flatten().map(String::as_str));
    let sentence = format!("owners are unknown while the ledger cannot be read; {last}");
    kind::OWNERS.found(Notice, sentence)
}

fn nobody(workers: &[WorkerRow]) -> Finding {
    let last = workers.iter().min_by_key(|worker| worker.silence());
    let since = last.map_or(String::new(), |worker| {
        let silence = worker.silence().to_std().unwrap_or_default();
        format!("; the last was {}, {} ago", worker.worker_id, span(silence))
    });
    let sentence = format!("no worker lives{since}: payments are taken and wait in the streams");
    kind::NO_WORKER.found(Critical, sentence)
}

fn unowned(cursors: &[CursorRow]) -> Finding {
    let free = cursors.iter().filter(|row| row.owner.is_none());
    let long = free.filter(|row| row.as_of - row.moved_at > UNOWNED);
    let partitions: Vec<u16> = long.map(number).collect();
    if partitions.is_empty() {
        return kind::UNOWNED.good();
    }
    let named = numbered(&partitions);
    let sentence = format!("nobody owns {named} although a worker lives");
    kind::UNOWNED.found(Critical, sentence).about(named)
}

/// Workers that miss beats and still own something.
fn silent(workers: &[WorkerRow]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // One that leaves and is slow about it is counted too.
    for worker in workers.iter().filter(|worker| worker.partitions > 0) {
        let silence = worker.silence();
        let lease = TimeDelta::milliseconds(worker.lease_ms);
        // Two of the five beats of a lease.
        if silence * 5 <= lease * 2 {
            continue;
        }
        let said = span(silence.to_std().unwrap_or_default());
        let owns = match worker.partitions {
            1 => "its partition is".to_owned(),
            many => format!("its {many} partitions are"),
        };
        let left = (lease - silence).to_std().map(|left| left + Duration::from_secs(1));
        let others = workers.iter().any(|it| it.is_alive() && it.worker_id != worker.worker_id);
        let (severity, what) = match left {
            Ok(left) if others => (Warning, format!("{owns} taken over in {}", span(left))),
            Ok(_) => (Warning, format!("{owns} taken over as soon as another worker lives")),
            Err(_) => (Critical, format!("{owns} taken over as soon as another worker lives")),
        };
        let sentence = format!("{} has been silent for {said}; {what}", worker.worker_id);
        let mut finding = kind::SILENT.found(severity, sentence);
        if others {
            finding = finding.advising(
                "wait for that, or start it again: nothing is lost. `paystream release \
                 --partition N --force --reason \"…\"` moves one at once",
            );
        }
        findings.push(finding.about(format!("worker {}", worker.worker_id)));
    }
    if findings.is_empty() {
        findings.push(kind::SILENT.good());
    }
    findings
}

fn uneven(workers: &[WorkerRow], cursors: &[CursorRow]) -> Finding {
    let staying = workers.iter().filter(|worker| worker.is_alive() && !worker.leaving);
    let counts: BTreeMap<&str, i64> =
        staying.map(|worker| (worker.worker_id.as_str(), worker.partitions)).collect();
    let (most, least) = (counts.values().max(), counts.values().min());
    let apart = most.zip(least).map_or(0, |(most, least)| most - least);
    let moving = cursors.iter().any(|row| row.as_of - row.moved_at <= SETTLING);
    let shares: Vec<String> =
        counts.iter().take(10).map(|(worker, count)| format!("{worker} {count}")).collect();
    if shares.is_empty() {
        let sentence = "none takes partitions: they are leaving, or do not reach Redis";
        return kind::UNEVEN.good().or(sentence);
    }
    let shares = shares.join(", ");
    let sentence = format!("partitions are spread unevenly and nothing moves: {shares}");
    let uneven = apart > 1 && !moving;
    kind::UNEVEN.judge(uneven.then_some((Warning, sentence))).or(format!("partitions: {shares}"))
}

fn ignored(cursors: &[CursorRow], releases: &[(i32, DateTime<Utc>)]) -> Finding {
    let now = cursors.first().map(|row| row.as_of);
    let late = |(_, asked): &&(i32, DateTime<Utc>)| now.is_some_and(|now| now - *asked > FOLLOWING);
    let Some((partition, asked)) = releases.iter().find(late) else {
        return kind::RELEASE.good();
    };
    let owner = cursors.iter().find(|row| row.partition == *partition);
    let owner = owner.and_then(|row| row.owner.as_deref()).unwrap_or("its owner");
    let ago = span(since(*asked, now.unwrap_or(*asked)));
    let sentence =
        format!("{owner} was asked for partition {partition} {ago} ago and has not handed it over");
    let advice = format!(
        "`paystream release --partition {partition} --force --reason \"…\"`: what it still tries is \
         refused"
    );
    let finding = kind::RELEASE.found(Warning, sentence).advising(advice);
    finding.about(format!("partition {partition}"))
}

/// Owners that live and have not moved the cursor of these partitions since an
/// earlier look, although entries have waited in them for long.
pub(super) fn stuck(earlier: &[CursorRow], now: &[CursorRow], waiting: &[u16]) -> Finding {
    let before: BTreeMap<i32, i64> =
        earlier.iter().map(|row| (row.partition, row.last_sequence)).collect();
    let stands = |row: &&CursorRow| {
        waiting.contains(&number(row))
            && row.owner_beat_at.is_some()
            && before.get(&row.partition) == Some(&row.last_sequence)
    };
    let mut owners: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for row in now.iter().filter(stands) {
        let owner = row.owner.as_deref().unwrap_or_default();
        owners.entry(owner).or_default().push(number(row));
    }
    let Some((owner, partitions)) = owners.iter().max_by_key(|(_, of)| of.len()) else {
        return kind::STUCK.good();
    };
    let sentence = format!(
        "{owner} lives and settles nothing of {}, where payments have waited for long",
        numbered(partitions)
    );
    kind::STUCK.found(Critical, sentence).about(format!("worker {owner}"))
}

/// A worker that ended without leaving, and whose partitions others have.
pub(super) fn gone(workers: &[WorkerRow]) -> Option<Finding> {
    let lost = workers.iter().filter(|worker| !worker.is_alive() && worker.partitions == 0);
    let last = lost.min_by_key(|worker| worker.silence())?;
    let silence = last.silence();
    let sentence = format!(
        "{} has not beaten for {} and did not say that it leaves; it owns nothing any more",
        last.worker_id,
        span(silence.to_std().unwrap_or_default())
    );
    let advice = "see in its log why; start it again if it is missed";
    let finding = kind::SILENT.found(Notice, sentence).advising(advice);
    let recent = silence <= TimeDelta::hours(1);
    recent.then(|| finding.about(format!("worker {}", last.worker_id)))
}

fn number(row: &CursorRow) -> u16 {
    u16::try_from(row.partition).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
