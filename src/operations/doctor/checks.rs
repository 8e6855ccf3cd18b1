//! Judges what PostgreSQL says of itself, of the owners of partitions, and of what waits for an
//! operator. Pure: rows of checks go in, findings come out.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    ledger::{CursorRow, Symptom, Symptoms},
    operations::{
        Severity::{self, Critical, Good, Notice, Warning},
        finding::{self as kind, Finding, FindingKind},
        shapes::{numbered, span},
    },
};

/// In milliseconds.
const SECOND: i64 = 1_000;
const DAY: i64 = 86_400 * SECOND;
const NEVER: i64 = i64::MAX;

/// From which level on what a check measures is a notice, a warning, critical.
const CHECKS: &[(FindingKind, [i64; 3])] = &[
    (kind::POSTGRESQL_OLD, [NEVER, 1, NEVER]),
    (kind::POSTGRESQL_RIGHTS, [NEVER, NEVER, 1]),
    (kind::POSTGRESQL_LOSES, [NEVER, NEVER, 1]),
    (kind::POSTGRESQL_POOLER, [NEVER, NEVER, 1]),
    (kind::POSTGRESQL_READS, [NEVER, NEVER, 1]),
    // Percent.
    (kind::POSTGRESQL_CLIENTS, [NEVER, 80, 95]),
    // Longer than a session takes its turn; longer than the deadline of a batch.
    (kind::POSTGRESQL_LOCKS, [NEVER, 2 * SECOND, 10 * SECOND]),
    // Longer than a network is slow; longer than the deadline of a batch.
    (kind::POSTGRESQL_STANDBY, [NEVER, 2 * SECOND, 10 * SECOND]),
    // What was deleted since cannot be cleaned up.
    (kind::POSTGRESQL_OPEN, [NEVER, 300 * SECOND, NEVER]),
    (kind::NO_WORKER, [NEVER, NEVER, 1]),
    // A partition that moves is without an owner for a moment.
    (kind::UNOWNED, [NEVER, NEVER, 5 * SECOND + 1]),
    // A thousandth of its lease: two of five heartbeats are missing, or all of them. A worker
    // that is gone and owns nothing has 1.
    (kind::SILENT, [1, 401, 1_001]),
    (kind::UNEVEN, [NEVER, 2, NEVER]),
    // An owner comes to the end of its batch before.
    (kind::RELEASE, [NEVER, 10 * SECOND + 1, NEVER]),
    (kind::RESIZE, [0, 300 * SECOND + 1, NEVER]),
    (kind::OLD_STREAMS, [1, NEVER, NEVER]),
    (kind::MONTHS, [NEVER, 1, NEVER]),
    (kind::DEAD, [NEVER, 0, NEVER]),
    // Older ones were forgotten.
    (kind::SUSPENSE, [0, DAY + 1, NEVER]),
    (kind::CONFLICTS, [0, DAY + 1, NEVER]),
    (kind::PARKED, [NEVER, 0, NEVER]),
    (kind::LOSSES, [NEVER, NEVER, 0]),
    (kind::ACCOUNT, [NEVER, NEVER, 1]),
    (kind::POISON, [NEVER, 1, NEVER]),
];

/// Every check that was asked.
pub(super) fn judge(symptoms: &Symptoms) -> Vec<Finding> {
    let asked = CHECKS.iter().filter_map(|(kind, at)| Some((kind, at, symptoms.get(kind.code)?)));
    let mut findings: Vec<Finding> =
        asked.flat_map(|(kind, at, rows)| check(*kind, *at, rows)).collect();
    // Where no worker lives, none is praised.
    let praise = [kind::SILENT.code, kind::UNOWNED.code];
    if findings.iter().any(|one| one.code == kind::NO_WORKER.code && one.severity > Good) {
        findings.retain(|one| one.severity > Good || !praise.contains(&one.code));
    }
    findings
}

fn check(kind: FindingKind, at: [i64; 3], rows: &[Symptom]) -> Vec<Finding> {
    let found = |row: &Symptom| {
        let severity = severity(at, row.level)?;
        let partitions: Vec<u16> =
            row.partitions.iter().filter_map(|one| u16::try_from(*one).ok()).collect();
        let age = u64::try_from(row.age.unwrap_or(row.level)).unwrap_or(0);
        let fill = |text: &str| {
            let text = text.replace("{age}", &span(Duration::from_millis(age)));
            text.replace("{partitions}", &numbered(&partitions))
        };
        let finding = kind.found(severity, fill(&row.sentence));
        let subject = row.subject.as_deref().map_or(finding.subject.clone(), fill);
        let advice = row.advice.clone().unwrap_or(finding.advice.clone());
        Some(finding.about(subject).advising(advice))
    };
    let mut findings: Vec<Finding> = rows.iter().filter_map(found).collect();
    let good = rows.first().and_then(|row| row.good.as_deref()).unwrap_or(kind.good);
    if findings.is_empty() && !good.is_empty() {
        findings.push(kind.good().or(good));
    }
    findings
}

fn severity(at: [i64; 3], level: i64) -> Option<Severity> {
    let reached = [Notice, Warning, Critical].into_iter().zip(at).filter(|(_, at)| level >= *at);
    reached.map(|(severity, _)| severity).next_back()
}

/// Owners that live and have not moved the cursor of these partitions since an
/// earlier look, although entries have waited in them for long.
pub(super) fn stuck(earlier: &[CursorRow], now: &[CursorRow], waiting: &[u16]) -> Finding {
    let stands = |row: &&CursorRow| {
        let before = earlier.iter().find(|before| before.partition == row.partition);
        row.is_owner_alive() && before.is_some_and(|it| it.last_sequence == row.last_sequence)
    };
    let mut owners: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for row in now.iter().filter(stands) {
        let partition = u16::try_from(row.partition).unwrap_or(u16::MAX);
        if let Some(owner) = row.owner.as_deref().filter(|_| waiting.contains(&partition)) {
            owners.entry(owner).or_default().push(partition);
        }
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

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn row(level: i64) -> Symptom {
        Symptom { level, sentence: "is bad".to_owned(), ..Symptom::default() }
    }

    #[test]
    fn each_check_has_two_sides() {
        let (notice, warning, critical) = (Some(Notice), Some(Warning), Some(Critical));
        let cases = [
            ("postgresql_too_old", 0, None, warning),
            ("postgresql_rights", 0, None, critical),
            ("postgresql_loses", 0, None, critical),
            ("postgresql_pooler", 0, None, critical),
            ("postgresql_read_only", 0, None, critical),
            ("postgresql_connections_low", 79, None, warning),
            ("postgresql_connections_low", 94, warning, critical),
            ("postgresql_lock_wait", 1_999, None, warning),
            ("postgresql_lock_wait", 9_999, warning, critical),
            ("postgresql_standby_wait", 1_999, None, warning),
            ("postgresql_standby_wait", 9_999, warning, critical),
            ("postgresql_transaction_open", 299_999, None, warning),
            ("no_worker", 0, None, critical),
            ("partition_unowned", 5_000, None, critical),
            ("owner_silent", 400, notice, warning),
            ("owner_silent", 1_000, warning, critical),
            ("owners_uneven", 1, None, warning),
            ("release_ignored", 10_000, None, warning),
            ("resize_under_way", 300_000, notice, warning),
            ("old_streams_left", 0, None, notice),
            ("payment_months_short", 0, None, warning),
            ("dead_letters_open", -1, None, warning),
            ("suspense_held", 86_400_000, notice, warning),
            ("conflicts_open", 86_400_000, notice, warning),
            ("customers_parked", -1, None, warning),
            ("losses_open", -1, None, critical),
            ("account_damaged", 0, None, critical),
            ("poison_on_trial", 0, None, warning),
        ];
        for (code, level, below, above) in cases {
            let (_, at) = CHECKS.iter().find(|(kind, _)| kind.code == code).unwrap();
            assert_eq!(severity(*at, level), below, "{code} at {level}");
            assert_eq!(severity(*at, level + 1), above, "{code} above {level}");
        }
        assert!(CHECKS.iter().all(|(kind, _)| cases.iter().any(|(code, ..)| *code == kind.code)));
    }

    #[test]
    fn a_row_is_told_with_its_age_and_its_partitions() {
        let row = Symptom {
            level: 5_001,
            partitions: vec![0, 2],
            subject: Some("{partitions}".to_owned()),
            sentence: "nobody owns {partitions} for {age}".to_owned(),
            advice: Some("look".to_owned()),
            ..Symptom::default()
        };
        let symptoms = Symptoms::from([("partition_unowned", vec![row])]);
        let found = &judge(&symptoms)[0];
        assert_eq!(found.sentence, "nobody owns partitions 0 and 2 for 5s");
        assert_eq!((found.subject.as_str(), found.advice.as_str()), ("partitions 0 and 2", "look"));
    }

    #[test]
    fn what_is_good_is_told_unless_it_was_not_asked_or_nobody_lives() {
        let told = |symptoms: &[(&'static str, Vec<Symptom>)]| -> Vec<(&str, Severity)> {
            let findings = judge(&symptoms.iter().cloned().collect());
            findings.iter().map(|one| (one.code, one.severity)).collect()
        };
        assert_eq!(told(&[]), []);
        let silent = ("owner_silent", Vec::new());
        assert_eq!(told(std::slice::from_ref(&silent)), [("owner_silent", Good)]);
        let nobody = ("no_worker", vec![row(1)]);
        assert_eq!(told(&[nobody, silent]), [("no_worker", Critical)]);
        // It has nothing to say where it is good.
        assert_eq!(told(&[("old_streams_left", Vec::new())]), []);
    }

    fn cursor(partition: i32) -> CursorRow {
        let now = DateTime::UNIX_EPOCH;
        CursorRow {
            partition,
            owner: Some("a".to_owned()),
            owner_lease_ms: Some(10_000),
            epoch: 1,
            last_sequence: 7,
            head_sequence: 9,
            draining_to: None,
            moved_at: now,
            owner_beat_at: Some(now),
            as_of: now,
        }
    }

    #[test]
    fn an_owner_is_stuck_only_where_entries_wait_and_the_cursor_stands() {
        let earlier = [cursor(0), cursor(1)];
        let mut later = earlier.clone();
        assert_eq!(stuck(&earlier, &later, &[]).severity, Good);
        let found = stuck(&earlier, &later, &[0, 1]);
        assert_eq!((found.code, found.severity), ("owner_stuck", Critical));
        assert!(found.sentence.contains("partitions 0 and 1"), "{}", found.sentence);
        later[0].last_sequence += 1;
        assert!(stuck(&earlier, &later, &[0, 1]).sentence.contains("partition 1"));
        assert_eq!(stuck(&earlier, &later, &[0]).severity, Good);
        later[1].owner_beat_at = None;
        assert_eq!(stuck(&earlier, &later, &[0, 1]).severity, Good, "it does not live");
    }
}
