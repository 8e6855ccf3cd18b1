//! Each finding about owners on both sides of its threshold.

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::operations::Severity::{self, Good};

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(1)
}

fn worker(name: &str, silent_ms: i64, partitions: i64) -> WorkerRow {
    WorkerRow {
        worker_id: name.to_owned(),
        started_at: DateTime::UNIX_EPOCH,
        beat_at: now() - TimeDelta::milliseconds(silent_ms),
        leaving: false,
        lease_ms: 10_000,
        attempts_max: 5,
        partitions,
        as_of: now(),
    }
}

fn cursor(partition: i32, owner: Option<&str>, moved_ms: i64) -> CursorRow {
    CursorRow {
        partition,
        owner: owner.map(str::to_owned),
        owner_lease_ms: None,
        epoch: 1,
        last_sequence: 7,
        head_sequence: 9,
        draining_to: None,
        moved_at: now() - TimeDelta::milliseconds(moved_ms),
        owner_beat_at: owner.map(|_| now()),
        as_of: now(),
    }
}

fn bad(
    workers: &[WorkerRow],
    cursors: &[CursorRow],
    releases: &[(i32, DateTime<Utc>)],
) -> Vec<(&'static str, Severity)> {
    let findings = judge(workers, cursors, releases).into_iter();
    findings.filter(|one| one.severity > Good).map(|one| (one.code, one.severity)).collect()
}

#[test]
fn somebody_has_to_live() {
    let cursors = [cursor(0, Some("a"), 60_000)];
    assert_eq!(bad(&[worker("a", 10_000, 0)], &cursors, &[]), []);
    assert_eq!(bad(&[worker("a", 10_001, 0)], &cursors, &[]), [("no_worker", Critical)]);
    assert_eq!(bad(&[], &cursors, &[]), [("no_worker", Critical)]);
    // Nobody is praised for beating.
    assert!(judge(&[], &cursors, &[]).iter().all(|one| one.code != "owner_silent"));
    // Without Redis workers give their partitions up, and do not leave.
    let idle = WorkerRow { leaving: true, ..worker("a", 0, 0) };
    let found = judge(&[idle], &cursors, &[]);
    let uneven = found.iter().find(|one| one.code == "owners_uneven").unwrap();
    assert!(uneven.sentence.contains("do not reach Redis"), "{}", uneven.sentence);
}

#[test]
fn a_partition_may_be_without_an_owner_for_a_moment() {
    let workers = [worker("a", 0, 1)];
    assert_eq!(bad(&workers, &[cursor(0, None, 5_000)], &[]), []);
    assert_eq!(bad(&workers, &[cursor(0, None, 5_001)], &[]), [("partition_unowned", Critical)]);
}

#[test]
fn a_silent_owner_is_told_with_the_time_until_it_is_taken_over() {
    let cursors = [cursor(0, Some("a"), 60_000)];
    let silence = |silent_ms| judge(&[worker("a", silent_ms, 1), worker("b", 0, 1)], &cursors, &[]);
    let found = |silent_ms| silence(silent_ms).into_iter().find(|one| one.code == "owner_silent");
    assert_eq!(found(4_000).unwrap().severity, Good);
    let soon = found(6_000).unwrap();
    assert_eq!(soon.severity, Warning);
    assert!(soon.sentence.ends_with("taken over in 5s"), "{}", soon.sentence);
    assert_eq!(found(10_000).unwrap().severity, Warning);
    assert_eq!(found(10_001).unwrap().severity, Critical);
}

#[test]
fn shares_differ_by_one_at_most_once_nothing_moves() {
    let cursors = |moved_ms| [cursor(0, Some("a"), moved_ms)];
    let shares = |a, b| [worker("a", 0, a), worker("b", 0, b)];
    assert_eq!(bad(&shares(4, 3), &cursors(60_000), &[]), []);
    assert_eq!(bad(&shares(5, 3), &cursors(30_000), &[]), []);
    assert_eq!(bad(&shares(5, 3), &cursors(30_001), &[]), [("owners_uneven", Warning)]);
}

#[test]
fn a_release_is_followed_within_ten_seconds() {
    let (workers, cursors) = ([worker("a", 0, 1)], [cursor(0, Some("a"), 60_000)]);
    let asked = |seconds| [(0, now() - TimeDelta::seconds(seconds))];
    assert_eq!(bad(&workers, &cursors, &asked(10)), []);
    assert_eq!(bad(&workers, &cursors, &asked(11)), [("release_ignored", Warning)]);
}

#[test]
fn an_owner_is_stuck_only_where_entries_wait_and_the_cursor_stands() {
    let earlier = [cursor(0, Some("a"), 0), cursor(1, Some("a"), 0)];
    let mut later = earlier.clone();
    assert_eq!(stuck(&earlier, &later, &[]).severity, Good);
    let found = stuck(&earlier, &later, &[0, 1]);
    assert_eq!((found.code, found.severity), ("owner_stuck", Critical));
    assert!(found.sentence.contains("partitions 0 and 1"), "{}", found.sentence);
    later[0].last_sequence += 1;
    assert!(stuck(&earlier, &later, &[0, 1]).sentence.contains("partition 1"));
    assert_eq!(stuck(&earlier, &later, &[0]).severity, Good);
}

#[test]
fn a_worker_that_has_just_died_is_a_notice() {
    assert_eq!(gone(&[worker("a", 10_000, 0)]), None);
    assert_eq!(gone(&[worker("a", 10_001, 1)]), None, "it is told as silent");
    assert_eq!(gone(&[worker("a", 10_001, 0)]).unwrap().severity, Notice);
    assert_eq!(gone(&[worker("a", 3_600_001, 0)]), None);
}
