//! Tests of the pure parts: a sound ledger has no drift, and each kind of
//! tampering is found by the check that is meant for it.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::{
    accounts::{Accounts, Claim, Posted},
    findings::{Check, Drift, Findings},
    sequences::{Jump, Kind, Loss, Owed, Place, Sequences, Sums},
};
use crate::domain::StreamId;

fn money(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn claim() -> Claim {
    Claim {
        asset_value: money("100.00"),
        total_paid: money("100.00"),
        credit: money("20.00"),
        payment_count: 2,
        version: 3,
    }
}

fn row(version: i64, amount: &str, parts: (&str, &str), balance: &str) -> Posted {
    Posted {
        version,
        applied_outcome: parts != ("0", "0"),
        digest_holds: true,
        by_hand: false,
        balance_after: Some(money(balance)),
        applied: money(parts.0),
        excess: money(parts.1),
        amount: money(amount),
        partition: 7,
        sequence: version * 10,
    }
}

fn statement() -> Vec<Posted> {
    vec![
        row(1, "40.00", ("40.00", "0.00"), "60.00"),
        row(2, "5.00", ("0", "0"), "60.00"),
        row(3, "80.00", ("60.00", "20.00"), "0.00"),
    ]
}

#[track_caller]
fn check_account(change: impl FnOnce(&mut Claim, &mut Vec<Posted>), expected: &[(&str, &str)]) {
    check_resized_account(&[], change, expected);
}

#[track_caller]
fn check_resized_account(
    resizes: &[i64],
    change: impl FnOnce(&mut Claim, &mut Vec<Posted>),
    expected: &[(&str, &str)],
) {
    let (mut claim, mut statement) = (claim(), statement());
    change(&mut claim, &mut statement);
    let (mut accounts, mut findings) = (Accounts::new(resizes.to_vec()), Findings::default());
    accounts.open(
        "GIG00000",
        Claim {
            version: 0,
            total_paid: Decimal::ZERO,
            credit: Decimal::ZERO,
            payment_count: 0,
            ..claim.clone()
        },
        &mut findings,
    );
    accounts.open("GIG00001", claim, &mut findings);
    statement.iter().for_each(|posted| accounts.post("GIG00001", posted, &mut findings));
    let recomputed = accounts.conclude(&mut findings);
    assert_eq!((recomputed.accounts, recomputed.payments), (2, statement.len() as u64));
    let differing: &[&str] = if expected.is_empty() { &[] } else { &["GIG00001"] };
    assert_eq!(recomputed.differing, differing);
    let (lines, drifts, count) = findings.conclude();
    assert_eq!(names(&drifts), expected);
    assert_eq!((count, lines[0].looked_at), (expected.len() as u64, 2));
}

fn names(drifts: &[Drift]) -> Vec<(&str, &str)> {
    drifts.iter().map(|drift| (drift.check, drift.subject.as_str())).collect()
}

#[test]
fn accounts_are_recomputed() {
    check_account(|_, _| {}, &[]);
    check_account(|claim, _| claim.total_paid = money("99.99"), &[("account_sum", "GIG00001")]);
    check_account(|claim, _| claim.credit = money("0.00"), &[("account_credit", "GIG00001")]);
    check_account(|claim, _| claim.payment_count = 3, &[("account_count", "GIG00001")]);
    check_account(|claim, _| claim.version = 4, &[("account_version", "GIG00001")]);
    check_account(
        |_, rows| rows[0].amount = money("41.00"),
        &[("amount_parts", "GIG00001 version 1")],
    );
    check_account(
        |_, rows| rows[1].balance_after = Some(money("59.00")),
        &[("balance_after", "GIG00001 version 2"), ("balance_after", "GIG00001 version 3")],
    );
    check_account(
        |_, rows| rows[1].balance_after = None,
        &[("balance_after", "GIG00001 version 2")],
    );
    check_account(
        |_, rows| rows[1].digest_holds = false,
        &[("content_changed", "GIG00001 version 2")],
    );
    check_account(|_, rows| rows[2].partition = 8, &[("partition_mixed", "GIG00001 version 3")]);
    check_account(|_, rows| rows[2].sequence = 20, &[("order_broken", "GIG00001 version 3")]);
    // What an operator settled later stands beside the stream's order.
    check_account(
        |_, rows| (rows[1].partition, rows[1].sequence, rows[1].by_hand) = (8, 1, true),
        &[],
    );
    check_account(
        |_, rows| (rows[1].by_hand, rows[2].sequence) = (true, 10),
        &[("order_broken", "GIG00001 version 3")],
    );
    check_account(
        |_, rows| {
            _ = rows.remove(1);
        },
        &[("version_gap", "GIG00001 version 3")],
    );
    check_account(
        |_, rows| {
            _ = rows.remove(2);
        },
        &[
            ("account_sum", "GIG00001"),
            ("account_credit", "GIG00001"),
            ("account_count", "GIG00001"),
            ("account_version", "GIG00001"),
        ],
    );
    check_account(
        |claim, _| claim.asset_value = money("90.00"),
        &[("balance_after", "GIG00001 version 1"), ("account_overpaid", "GIG00001")],
    );
}

/// A resize moves customers to other partitions, where sequences go on higher.
#[test]
fn a_customer_changes_partition_only_across_a_resize() {
    let moved = |_: &mut Claim, rows: &mut Vec<Posted>| rows[2].partition = 8;
    let mixed = [("partition_mixed", "GIG00001 version 3")];
    check_resized_account(&[5, 30], moved, &[]);
    check_resized_account(&[21], moved, &[]);
    check_resized_account(&[20], moved, &mixed);
    check_resized_account(&[31], moved, &mixed);
    check_resized_account(&[25], |_, rows| (rows[2].partition, rows[2].sequence) = (8, 15), &mixed);
    check_resized_account(
        &[25],
        |_, rows| rows[2].sequence = 20,
        &[("order_broken", "GIG00001 version 3")],
    );
}

#[test]
fn a_statement_without_an_account_is_found() {
    let (mut accounts, mut findings) = (Accounts::default(), Findings::default());
    accounts.open("GIG00001", claim(), &mut findings);
    statement().iter().for_each(|posted| accounts.post("GIG00001", posted, &mut findings));
    statement().iter().for_each(|posted| accounts.post("GIG00002", posted, &mut findings));
    accounts.open("GIG00003", claim(), &mut findings);
    let recomputed = accounts.conclude(&mut findings);
    assert_eq!((recomputed.accounts, recomputed.payments), (2, 6));
    let (_, drifts, _) = findings.conclude();
    assert_eq!(drifts[0].check, "account_missing");
    // The last claims money without a statement.
    let rest: Vec<_> = drifts[1..].iter().map(|drift| drift.check).collect();
    assert_eq!(rest, ["account_sum", "account_credit", "account_count", "account_version"]);
}

fn place(sequence: i64, kind: Kind) -> Place {
    let amount = if kind == Kind::Applied { money("1.50") } else { Decimal::ZERO };
    let id = StreamId { milliseconds: 1000 + sequence.unsigned_abs(), number: 0 };
    Place { partition: 7, sequence, kind, amount, id: Some(id) }
}

fn unread(milliseconds: u64) -> StreamId {
    StreamId { milliseconds, number: 1 }
}

#[track_caller]
fn check_places(change: impl FnOnce(&mut Owed, &mut Vec<Place>), expected: &[(&str, &str)]) {
    let kinds = [Kind::Applied, Kind::Recorded, Kind::Applied, Kind::Suspense, Kind::Dead];
    let sums = Sums {
        applied: 2,
        recorded: 1,
        suspense: 1,
        dead_letters: 1,
        amount: money("3.00"),
        ..Sums::default()
    };
    let mut owed = Owed { last_sequence: 5, sums, ..Owed::default() };
    let mut places: Vec<_> =
        kinds.into_iter().zip(1..).map(|(kind, sequence)| place(sequence, kind)).collect();
    change(&mut owed, &mut places);
    let mut findings = Findings::default();
    let mut sequences = Sequences::new(BTreeMap::from([(3, Owed::default()), (7, owed)]));
    places.iter().for_each(|place| sequences.take(place, &mut findings));
    assert_eq!(sequences.conclude(&mut findings).0, places.len() as u64);
    let (lines, drifts, _) = findings.conclude();
    assert_eq!(names(&drifts), expected, "{drifts:#?}");
    assert!(lines[Check::Totals as usize].looked_at >= 2);
}

#[test]
fn sequences_are_accounted_for() {
    check_places(|_, _| {}, &[]);
    check_places(
        |_, places| {
            _ = places.remove(1);
        },
        &[("sequence_gap", "partition 7 sequence 2"), ("totals", "partition 7")],
    );
    check_places(
        |_, places| {
            _ = places.drain(..2);
        },
        &[("sequence_gap", "partition 7 sequences 1 to 2"), ("totals", "partition 7")],
    );
    check_places(
        |owed, _| owed.last_sequence = 7,
        &[("sequence_gap", "partition 7 sequences 6 to 7")],
    );
    check_places(|owed, _| owed.last_sequence = 4, &[("sequence_beyond", "partition 7")]);
    check_places(
        |_, places| places.insert(1, place(1, Kind::Duplicate)),
        &[("sequence_twice", "partition 7 sequence 1"), ("totals", "partition 7")],
    );
    check_places(
        |_, places| places.push(place(5, Kind::Applied)),
        &[("outcome_twice", "partition 7 sequence 5"), ("totals", "partition 7")],
    );
    check_places(
        |owed, places| {
            places[4].kind = Kind::Redriven;
            places.push(place(5, Kind::Recorded));
            owed.sums.recorded = 2;
        },
        &[],
    );
    // One that was redriven must have ended somewhere.
    check_places(
        |_, places| places[4].kind = Kind::Redriven,
        &[("sequence_gap", "partition 7 sequence 5")],
    );
    check_places(
        |_, places| places[2].kind = Kind::Redriven,
        &[("sequence_gap", "partition 7 sequence 3"), ("totals", "partition 7")],
    );
    check_places(
        |_, places| places.insert(0, place(0, Kind::Conflict)),
        &[("sequence_gap", "partition 7 sequence 0"), ("totals", "partition 7")],
    );
    check_places(|owed, _| owed.sums.amount = money("3.01"), &[("totals", "partition 7")]);
    check_places(
        |_, places| places.iter_mut().for_each(|place| place.partition = 9),
        &[
            ("sequence_beyond", "partition 9"),
            ("totals", "partition 9"),
            ("sequence_gap", "partition 7 sequences 1 to 5"),
            ("totals", "partition 7"),
        ],
    );
}

fn jump(after: i64, resumes_at: i64, lost: Option<Option<(i64, i64)>>) -> Jump {
    let open = lost.map(|sequences| Loss { sequences, detail: "the stream went back".to_owned() });
    Jump { after, resumes_at, open }
}

/// A jump explains the sequences inside it and no others; what was lost with it
/// is drift until somebody accepts it.
#[test]
fn jumps_explain_what_is_missing_and_say_what_is_lost() {
    let resumed = |jumps: Vec<Jump>| {
        move |owed: &mut Owed, places: &mut Vec<Place>| {
            places[3].sequence = 11;
            places[4].sequence = 12;
            owed.last_sequence = 12;
            owed.jumps = jumps;
        }
    };
    let gap = |subject| [("sequence_gap", subject)];
    check_places(resumed(vec![]), &gap("partition 7 sequences 4 to 10"));
    check_places(resumed(vec![jump(3, 11, None)]), &[]);
    check_places(resumed(vec![jump(3, 7, None), jump(6, 11, None)]), &[]);
    check_places(resumed(vec![jump(4, 11, None)]), &gap("partition 7 sequence 4"));
    check_places(resumed(vec![jump(3, 9, None)]), &gap("partition 7 sequences 9 to 10"));
    check_places(
        resumed(vec![jump(4, 6, None), jump(7, 9, None)]),
        &[
            ("sequence_gap", "partition 7 sequence 4"),
            ("sequence_gap", "partition 7 sequences 6 to 7"),
            ("sequence_gap", "partition 7 sequences 9 to 10"),
        ],
    );
    check_places(
        resumed(vec![jump(3, 11, Some(Some((4, 9))))]),
        &[("sequence_lost", "partition 7 sequences 4 to 9")],
    );
    check_places(
        resumed(vec![jump(3, 11, Some(None))]),
        &[("sequence_lost", "partition 7 after sequence 3")],
    );
    // At the end, and where nothing was ever settled.
    check_places(|owed, _| (owed.last_sequence, owed.jumps) = (9, vec![jump(5, 10, None)]), &[]);
    check_places(
        |owed, _| (owed.last_sequence, owed.jumps) = (9, vec![jump(5, 9, None)]),
        &gap("partition 7 sequence 9"),
    );
}

/// An entry that could not be read took a sequence that nobody knows. It
/// explains a gap where it stood, and no other.
#[test]
fn unreadable_entries_explain_the_gap_where_they_stood() {
    let without_second = |unread: StreamId| {
        move |owed: &mut Owed, places: &mut Vec<Place>| {
            places.remove(1);
            owed.unread = vec![unread];
            owed.sums = Sums { recorded: 0, dead_letters: 2, ..owed.sums };
        }
    };
    check_places(without_second(unread(1001)), &[]);
    check_places(without_second(unread(1002)), &[]);
    check_places(without_second(unread(1000)), &[("sequence_gap", "partition 7 sequence 2")]);
    check_places(without_second(unread(1003)), &[("sequence_gap", "partition 7 sequence 2")]);
    // At the end, before anything that could be read.
    check_places(
        |owed, places| {
            places.pop();
            owed.unread = vec![unread(1004)];
        },
        &[],
    );
    // One does not explain two.
    check_places(
        |owed, places| {
            places.drain(1..3);
            owed.unread = vec![unread(1001)];
            owed.sums = Sums {
                recorded: 0,
                applied: 1,
                dead_letters: 2,
                amount: money("1.50"),
                ..owed.sums
            };
        },
        &[("sequence_gap", "partition 7 sequences 2 to 3")],
    );
}

#[test]
fn all_drifts_are_counted_and_the_first_are_kept() {
    let mut findings = Findings::default();
    for number in 0..1000 {
        findings.add(Check::VersionGap, number.to_string(), "");
    }
    let (lines, drifts, count) = findings.conclude();
    assert_eq!((drifts.len(), count), (100, 1000));
    assert_eq!(lines[Check::VersionGap as usize].drift, 1000);
    let names: std::collections::BTreeSet<_> = lines.iter().map(|line| line.check).collect();
    assert_eq!(names.len(), Check::ALL.len());
    for (at, check) in Check::ALL.into_iter().enumerate() {
        assert_eq!(check as usize, at, "ALL is in the order of the variants");
    }
}
