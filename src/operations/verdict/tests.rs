//! Every verdict, from the values that lead to it, on both sides of each border.

use std::time::Duration;

use super::{InLedger, OwnerLease, Situation, Verdict};
use crate::{
    domain::StreamId,
    ledger::{Attempt, LockHolder},
};

const LEASE: Duration = Duration::from_secs(10);

fn id(milliseconds: u64) -> StreamId {
    StreamId { milliseconds, number: 0 }
}

fn owner(name: &str, silence_ms: u64) -> Option<OwnerLease<'_>> {
    let silence = Duration::from_millis(silence_ms);
    Some(OwnerLease { name, silence, lease: LEASE, attempts_max: 5 })
}

fn trial(first: u64, last: u64, attempts: u32, error: Option<&str>) -> Attempt {
    let error = error.map(str::to_owned);
    Attempt { first: id(first), last: id(last), attempts, error }
}

/// Entry 100 of partition 7, handed to `ada`, who owns the partition and lives.
fn in_flight() -> Situation<'static> {
    let owner = owner("ada", 100);
    let ledger = InLedger { settled: None, owner, others_alive: 1, trial: None, lock: None };
    Situation {
        partition: 7,
        id: id(100),
        unreadable: None,
        deleted: false,
        consumer: "ada",
        idle: Duration::from_millis(200),
        ledger: Some(ledger),
    }
}

fn with<'a>(change: impl FnOnce(&mut Situation<'a>, &mut InLedger<'a>)) -> Verdict {
    let mut situation: Situation<'a> = in_flight();
    let mut ledger = situation.ledger.take().unwrap();
    change(&mut situation, &mut ledger);
    situation.ledger = Some(ledger);
    situation.judge()
}

#[track_caller]
fn check(verdict: &Verdict, code: &str, trouble: bool, words: &str, actions: &[&str]) {
    assert_eq!((verdict.code, verdict.trouble), (code, trouble), "{verdict:?}");
    assert!(verdict.sentence.contains(words), "{}", verdict.sentence);
    let codes: Vec<&str> = verdict.actions.iter().map(|action| action.code).collect();
    assert_eq!(codes, actions, "{verdict:?}");
}

#[test]
fn work_under_way_is_no_trouble_until_it_is_late() {
    check(&in_flight().judge(), "in_flight", false, "ada has had it", &["wait"]);
    let verdict = with(|s, _| s.idle = LEASE);
    assert_eq!(verdict.code, "in_flight");
    let verdict = with(|s, _| s.idle = LEASE + Duration::from_millis(1));
    check(&verdict, "slow", true, "longer than a batch", &["doctor", "release_partition"]);
}

#[test]
fn without_the_ledger_nothing_is_claimed() {
    let situation = Situation { ledger: None, ..in_flight() };
    let verdict = situation.judge();
    check(&verdict, "waiting_for_ledger", true, "safe in the stream", &["check_postgresql"]);
}

#[test]
fn a_silent_owner_is_taken_over_when_its_lease_ends() {
    assert_eq!(with(|_, l| l.owner = owner("ada", 4_000)).code, "in_flight");
    let verdict = with(|_, l| l.owner = owner("ada", 6_000));
    let actions = ["wait", "release_partition"];
    check(&verdict, "owner_silent", true, "for 6s (dead, frozen or cut off)", &actions);
    assert!(verdict.sentence.ends_with("taken over in 4s"), "{}", verdict.sentence);
    assert!(verdict.actions[1].command.as_ref().unwrap().contains("--force"));
    let verdict = with(|_, l| l.owner = owner("ada", 10_000));
    check(&verdict, "owner_silent", true, "at any moment", &actions);
    let verdict = with(|_, l| (l.owner, l.others_alive) = (owner("ada", 6_000), 0));
    check(&verdict, "owner_silent", true, "no other worker lives", &["start_worker"]);
}

#[test]
fn a_partition_without_owner_needs_a_worker() {
    let verdict = with(|_, l| (l.owner, l.others_alive) = (None, 0));
    check(&verdict, "no_owner", true, "no worker lives", &["start_worker"]);
    let verdict = with(|_, l| l.owner = None);
    check(&verdict, "no_owner", true, "within a second", &["wait"]);
}

#[test]
fn what_another_worker_left_is_changing_hands() {
    let verdict = with(|s, _| s.consumer = "bob");
    check(&verdict, "changing_hands", false, "over from bob", &["wait"]);
    let verdict = with(|s, _| (s.consumer, s.idle) = ("bob", 2 * LEASE));
    check(&verdict, "changing_hands", true, "20s", &["release_partition", "doctor"]);
}

#[test]
fn what_the_ledger_has_is_only_not_acknowledged() {
    let verdict = with(|_, l| l.settled = Some("applied"));
    check(&verdict, "committed", false, "as applied", &["wait", "release_partition"]);
    let verdict =
        with(|s, l| (s.idle, l.settled, l.owner) = (LEASE, Some("applied"), owner("ada", 60_000)));
    check(&verdict, "committed", true, "without a second effect", &["wait", "release_partition"]);
}

#[test]
fn poison_is_told_from_what_came_back_and_from_what_waits_behind_it() {
    let back = trial(90, 110, 1, None);
    let verdict = with(|_, l| l.trial = Some(&back));
    check(&verdict, "tried_again", false, "1 of 5 attempts", &["wait"]);
    let failed = trial(100, 100, 3, Some("no such thing"));
    let verdict = with(|_, l| l.trial = Some(&failed));
    check(&verdict, "poison", true, "poison, 3 of 5 attempts: no such", &["wait", "redrive"]);
    let under_way = trial(100, 100, 2, None);
    let verdict = with(|_, l| l.trial = Some(&under_way));
    check(&verdict, "poison", true, "being tried alone", &["wait", "redrive"]);
    let before = trial(99, 99, 3, Some("no such thing"));
    let verdict = with(|_, l| l.trial = Some(&before));
    check(&verdict, "behind_poison", true, "behind entry 99-0", &["wait"]);
    let after = trial(101, 101, 3, Some("no such thing"));
    assert_eq!(with(|_, l| l.trial = Some(&after)).code, "in_flight");
}

#[test]
fn an_entry_that_is_no_payment_says_so() {
    let verdict = with(|s, _| s.unreadable = Some("it has no version"));
    check(&verdict, "unreadable", true, "it has no version", &["wait"]);
    let verdict = with(|s, _| s.deleted = true);
    check(&verdict, "deleted", true, "deleted from the stream", &["release_partition", "audit"]);
}

#[test]
fn a_lock_says_who_holds_it_and_hides_the_try() {
    let holder = LockHolder {
        pid: 41,
        application: "psql".to_owned(),
        state: "idle in transaction".to_owned(),
        open_ms: Some(35_000),
        has_table: false,
        accounts: vec!["ADA".to_owned()],
        partitions: Vec::new(),
    };
    let tried = trial(100, 100, 1, None);
    let verdict = with(|_, l| {
        l.trial = Some(&tried);
        l.lock = Some(("account ADA".to_owned(), &holder));
    });
    let words = "account ADA, locked by PostgreSQL process 41 (psql, idle in transaction); its \
                 transaction has been open for 35s";
    check(&verdict, "locked", true, words, &["wait", "end_session"]);
}
