//! Each statement holds of a sound run, and fails of one that is broken in its way.

use super::*;

fn place(sequence: i64) -> Place {
    Place { partition: 3, sequence }
}

fn sent(reference: &str, answers: &[(u64, i64)]) -> Sent {
    let answer = |(turn, sequence): &(u64, i64)| Answer { turn: *turn, place: place(*sequence) };
    let answers = answers.iter().map(answer).collect();
    let (reference, customer) = (reference.to_owned(), "ADA".to_owned());
    Sent { reference, client: 1, customer, cents: 100, answers }
}

fn effect(reference: &str, sequence: i64, version: i64) -> Effect {
    let (reference, customer) = (reference.to_owned(), "ADA".to_owned());
    Effect { reference, customer, cents: 100, place: place(sequence), version }
}

/// Two payments, the second lost and then accepted anew behind a third.
fn sound() -> Records {
    Records {
        sent: vec![sent("a", &[(1, 1)]), sent("b", &[(2, 2), (4, 4)]), sent("c", &[(3, 3)])],
        effects: vec![effect("a", 1, 1), effect("c", 3, 2), effect("b", 4, 3)],
        losses: vec![Loss { partition: 3, first: 2, last: 2 }],
        accounts: vec![Account { customer: "ADA".to_owned(), cents: 300, version: 3 }],
        backlogs: vec![Backlog { partition: 3, lag: 0, pending: 0 }],
    }
}

fn found(records: &Records) -> Vec<(Statement, String)> {
    records.violations().into_iter().map(|found| (found.statement, found.of)).collect()
}

fn one(statement: Statement, of: &str) -> Vec<(Statement, String)> {
    vec![(statement, of.to_owned())]
}

#[test]
fn a_sound_run_violates_nothing() {
    assert_eq!(found(&sound()), []);
}

#[test]
fn an_accepted_payment_without_effect_is_found_unless_it_is_listed() {
    let mut records = sound();
    records.sent.push(sent("d", &[(5, 5)]));
    assert_eq!(found(&records), one(Statement::OneEffect, "d"));
    assert_eq!(
        records.one_effect()[0].to_string(),
        "OneEffect: d: was accepted at Place { partition: 3, sequence: 5 }, has no effect and is \
         not listed"
    );
    records.losses.push(Loss { partition: 4, first: 1, last: 9 });
    assert_eq!(found(&records), one(Statement::OneEffect, "d"), "another partition");
    records.losses.push(Loss { partition: 3, first: 5, last: 5 });
    assert_eq!(found(&records), []);
    records.sent[3].answers.push(Answer { turn: 6, place: place(6) });
    assert_eq!(found(&records), one(Statement::OneEffect, "d"), "accepted again, and gone");
}

#[test]
fn what_was_never_answered_may_have_an_effect_or_none_but_not_two() {
    let mut records = sound();
    records.sent.push(sent("d", &[]));
    assert_eq!(found(&records), []);
    records.effects.extend([effect("d", 5, 4), effect("d", 6, 5)]);
    records.accounts[0] = Account { customer: "ADA".to_owned(), cents: 500, version: 5 };
    assert_eq!(found(&records), one(Statement::OneEffect, "d"));
}

#[test]
fn effects_in_another_order_than_answers_are_found() {
    let mut records = sound();
    (records.effects[0].version, records.effects[1].version) = (2, 1);
    assert_eq!(found(&records), one(Statement::Order, "a"));
    records.sent[0].client = 2;
    assert_eq!(found(&records), [], "nobody orders what two clients send");
    let mut records = sound();
    records.effects[2].place = place(9);
    assert_eq!(found(&records), [], "a late request put a lost payment back");
    records.losses.clear();
    assert_eq!(found(&records), one(Statement::Order, "b"));
}

#[test]
fn in_the_wake_of_a_loss_the_order_is_that_of_the_stream() {
    let lost = |sequence| Loss { partition: 3, first: sequence, last: sequence };
    let account = Account { customer: "ADA".to_owned(), cents: 200, version: 2 };
    // The first of a batch was lost before its client heard of it, and came behind the second.
    let mut records = Records {
        sent: vec![sent("a", &[(1, 7)]), sent("b", &[(2, 6)])],
        effects: vec![effect("b", 6, 1), effect("a", 7, 2)],
        losses: vec![lost(5)],
        accounts: vec![account],
        backlogs: Vec::new(),
    };
    assert_eq!(found(&records), []);
    records.losses.clear();
    assert_eq!(found(&records), one(Statement::Order, "a"), "a pipeline was sent again");
    // What was listed came back with an old copy.
    records.sent[0].answers[0].place = place(3);
    records.effects[1].place = place(3);
    assert_eq!(found(&records), one(Statement::Order, "a"));
    records.losses.push(lost(3));
    assert_eq!(found(&records), []);
    records.losses[0] = lost(2);
    assert_eq!(found(&records), one(Statement::Order, "a"), "the ledger turned them round");
}

#[test]
fn money_that_nobody_sent_so_is_found() {
    let mut records = sound();
    records.sent.remove(0);
    assert_eq!(found(&records), one(Statement::OnlySent, "a"));
    let mut records = sound();
    records.sent[0].cents = 7;
    assert_eq!(found(&records), one(Statement::OnlySent, "a"));
}

#[test]
fn an_account_that_is_not_its_statement_is_found() {
    let ada = || one(Statement::Balances, "ADA");
    let mut records = sound();
    records.accounts[0].cents = 299;
    assert_eq!(found(&records), ada());
    let mut records = sound();
    records.accounts[0].version = 4;
    assert_eq!(found(&records), ada());
    let mut records = sound();
    records.effects[2].version = 4;
    assert_eq!(found(&records), ada(), "a version is left out");
    records = sound();
    records.accounts.clear();
    assert_eq!(found(&records), ada());
}

#[test]
fn what_still_waits_is_found() {
    let mut records = sound();
    records.backlogs[0].lag = 1;
    assert_eq!(found(&records), one(Statement::AtRest, "partition 3"));
    records.backlogs[0] = Backlog { partition: 3, lag: 0, pending: 1 };
    assert_eq!(found(&records), one(Statement::AtRest, "partition 3"));
}
