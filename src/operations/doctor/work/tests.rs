//! Each finding about what waits on both sides of its threshold.

use rust_decimal::Decimal;

use super::*;
use crate::{
    domain::{Currency, StreamId},
    operations::Severity::Good,
};

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(2)
}

fn standing(partition: u16, age_seconds: i64, lag: i64, pending: i64) -> Standing {
    let at = (now() - TimeDelta::seconds(age_seconds)).timestamp_millis();
    let id = StreamId { milliseconds: u64::try_from(at).unwrap(), number: 0 };
    Standing {
        partition,
        group: GROUP.to_owned(),
        lag,
        pending,
        oldest_waiting: (lag + pending > 0).then_some(id),
        floor: id,
    }
}

fn bad(findings: Vec<Finding>) -> Vec<(&'static str, Severity)> {
    let bad = findings.into_iter().filter(|one| one.severity > Good);
    bad.map(|one| (one.code, one.severity)).collect()
}

fn seen(standings: &[Standing]) -> Vec<(&'static str, Severity)> {
    bad(waiting(standings, &[], None, now()))
}

#[test]
fn ten_thousand_entries_may_wait() {
    assert_eq!(seen(&[standing(0, 1, 5_000, 0), standing(1, 1, 4_000, 1_000)]), []);
    let more = seen(&[standing(0, 1, 5_000, 0), standing(1, 1, 4_000, 1_001)]);
    assert_eq!(more, [("backlog_deep", Warning)]);
}

#[test]
fn a_stream_near_its_limit_is_critical() {
    let one = |length| [Presence { partition: 3, stream: true, group: true, length }];
    let found = |unsettled, length| {
        bad(waiting(&[standing(3, 1, unsettled, 0)], &one(length), Some(1_000), now()))
    };
    assert_eq!(found(799, 6_399), []);
    assert_eq!(found(800, 800), [("backlog_deep", Critical)]);
    assert_eq!(found(0, 6_400), [("backlog_deep", Critical)], "settled entries are kept");
    let unlimited = waiting(&[standing(3, 1, 5_000, 0)], &one(50_000), None, now());
    assert_eq!(bad(unlimited), [], "nobody knows the limit");
}

#[test]
fn waiting_for_a_minute_warns_and_for_five_is_critical() {
    for (pending, code) in [(0, "waiting_long"), (1, "pending_old")] {
        let found = |age| seen(&[standing(0, age, 1, pending)]);
        assert_eq!(found(60), []);
        assert_eq!(found(61), [(code, Warning)]);
        assert_eq!(found(300), [(code, Warning)]);
        assert_eq!(found(301), [(code, Critical)]);
    }
    let late = [standing(0, 61, 1, 0), standing(1, 60, 1, 0), standing(2, 61, 0, 1)];
    assert_eq!(waiting_long(&late, now()), [0, 2]);
}

fn some(count: i64, hours: i64) -> Pile {
    Pile { count, oldest: Some(now() - TimeDelta::hours(hours)) }
}

#[test]
fn every_pile_is_told_and_grows_old() {
    assert_eq!(bad(piles(&Work::default(), now())), []);
    let cases = [
        (Work { dead_letters: some(1, 0), ..Work::default() }, ("dead_letters_open", Warning)),
        (Work { suspense: some(1, 24), ..Work::default() }, ("suspense_held", Notice)),
        (Work { suspense: some(1, 25), ..Work::default() }, ("suspense_held", Warning)),
        (Work { conflicts: some(1, 24), ..Work::default() }, ("conflicts_open", Notice)),
        (Work { conflicts: some(1, 25), ..Work::default() }, ("conflicts_open", Warning)),
        (Work { parked: some(2, 0), ..Work::default() }, ("customers_parked", Warning)),
        (Work { losses: some(1, 0), ..Work::default() }, ("losses_open", Critical)),
    ];
    for (work, wanted) in cases {
        assert_eq!(bad(piles(&work, now())), [wanted], "{work:?}");
    }
}

#[test]
fn nobody_is_sent_to_redrive_what_nobody_can_read() {
    for (redrivable, wanted) in [(true, "redrive ID"), (false, "discard ID")] {
        let work = Work { dead_letters: some(1, 0), redrivable, ..Work::default() };
        let found = piles(&work, now()).into_iter().find(|one| one.code == "dead_letters_open");
        let advice = found.unwrap().advice;
        assert!(advice.contains(wanted), "{advice}");
        assert_eq!(advice.contains("redrive"), redrivable, "{advice}");
    }
}

#[test]
fn a_pile_is_told_in_a_sentence() {
    let suspense_amount = Decimal::new(12_345, 1);
    let work = Work { suspense: some(2, 3), suspense_amount, ..Work::default() };
    let found = piles(&work, now()).into_iter().find(|one| one.code == "suspense_held").unwrap();
    let wanted = "2 payments held for customers nobody knows, 1234.50 together; the oldest for 3h";
    assert_eq!(found.sentence, wanted);
}

#[test]
fn an_entry_that_fails_is_told_with_its_attempts() {
    let entry = RetriedEntry {
        partition: 3,
        first_stream_id: "5-0".to_owned(),
        last_stream_id: "5-0".to_owned(),
        attempts: 2,
        attempts_max: 5,
        error: Some("no such thing".to_owned()),
    };
    let found = retried(&[entry]);
    assert_eq!((found[0].code, found[0].severity), ("poison_on_trial", Warning));
    let wanted = "entry 5-0 of partition 3 fails: attempt 2 of 5, no such thing";
    assert_eq!(found[0].sentence, wanted);
    assert_eq!(retried(&[])[0].severity, Good);
}

#[test]
fn a_damaged_account_is_named_with_what_to_do() {
    let account = |dead_letters| DamagedAccount {
        customer_id: "ADA".to_owned(),
        version: 1,
        last: 3,
        dead_letters,
    };
    let found = damaged(&[account(2)]);
    assert_eq!((found[0].code, found[0].severity), ("account_damaged", Critical));
    let wanted = "account ADA stands at version 1, but its statement goes on to 3: it was changed \
                  by hand or damaged; 2 dead letters are open for it";
    assert_eq!(found[0].sentence, wanted);
    assert!(found[0].advice.contains("--customer ADA"), "{}", found[0].advice);
    assert_eq!(damaged(&[])[0].severity, Good);
}

#[test]
fn without_the_ledger_no_advice_starts_workers() {
    let late = [standing(0, 301, 1, 0), standing(1, 301, 20_000, 1)];
    for finding in waiting(&late, &[], None, now()).into_iter().map(without_ledger) {
        assert!(finding.severity > Good, "{finding:?}");
        assert!(!finding.advice.contains("start"), "{finding:?}");
        assert!(finding.advice.contains("PostgreSQL"), "{finding:?}");
    }
}

#[test]
fn a_change_of_the_topology_takes_five_minutes_at_most() {
    let cut = Topology {
        generation: 1,
        partitions: 8,
        provisioned: true,
        resizing_to: None,
        currency: Currency::DEFAULT,
    };
    let found = |work: &Work| bad(topology(&cut, work, now()));
    assert_eq!(found(&Work::default()), []);
    let resizing = |minutes| Work {
        resizing_to: Some(16),
        resizing_since: Some(now() - TimeDelta::minutes(minutes)),
        ..Work::default()
    };
    assert_eq!(found(&resizing(5)), [("resize_under_way", Notice)]);
    assert_eq!(found(&resizing(6)), [("resize_under_way", Warning)]);
    let old = Work { old_generations: 1, ..Work::default() };
    assert_eq!(found(&old), [("old_streams_left", Notice)]);
}
