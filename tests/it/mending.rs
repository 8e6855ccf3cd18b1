//! Proves that a dead letter can be settled later, or given up, by whoever and
//! whenever: once, in one transaction, with whatever outcome is due by then.
//! What fails again stays dead, what is done twice is refused, and reading the
//! streams anew changes nothing.

use paystream::operations::{Acted, LetterReport, Signature};

use crate::prelude::*;

/// What an operator sees and does on these stores.
pub async fn operations(stores: &Stores) -> Operations {
    let ledger = Ledger::new(&stores.database_url).unwrap();
    let topology = ledger.schema().topology(None, &stores.key_prefix).await.unwrap();
    let streams = Streams::new(
        &stores.redis_url,
        &stores.key_prefix,
        topology.partitions,
        topology.generation,
    );
    Operations::new(&streams.unwrap(), &ledger, &topology, clock::system)
}

pub fn signed(actor: &str) -> Signature {
    Signature { actor: actor.to_owned(), reason: "the rule is gone".to_owned() }
}

/// Counts what was changed by hand; accounts are opened by the tests themselves.
const CHANGES: &str = "select count(*) from audit_log where action <> 'account_opened'";

/// Everything that operators can change, as text.
pub async fn everything(stores: &Stores) -> Vec<String> {
    let tables = "processed_transactions customer_accounts suspense conflicts duplicates parked \
         dead_letters partition_totals audit_log";
    let select = |table| format!("select '{table}' || to_jsonb(t)::text from {table} t");
    let selects: Vec<String> = tables.split_whitespace().map(select).collect();
    stores.texts(&format!("{} order by 1", selects.join(" union all "))).await
}

/// The streams are read anew from their start, and nothing may come of it.
pub async fn read_again(h: &Harness) {
    let before = everything(&h.stores).await;
    h.stores.rewind().await;
    h.settled().await;
    assert_eq!(everything(&h.stores).await, before, "read again from the start");
}

/// The last change of this kind: who, to what, why, before and after.
pub async fn logged(stores: &Stores, action: &str) -> (String, String, String, Value, Value) {
    let sql = format!(
        "select actor, subject, reason, before, after from audit_log where action = '{action}'
         order by id desc limit 1"
    );
    stores.rows(&sql).await.swap_remove(0)
}

/// The last change of this kind, which must be of this actor, subject and reason; before
/// and after.
pub async fn noted_by(stores: &Stores, action: &str, wanted: [&str; 3]) -> (Value, Value) {
    let (actor, subject, reason, before, after) = logged(stores, action).await;
    assert_eq!([&*actor, &*subject, &*reason], wanted);
    (before, after)
}

async fn id_of(stores: &Stores, reference: &str) -> i64 {
    let sql = format!("select id from dead_letters where transaction_reference = '{reference}'");
    stores.count(&sql).await
}

/// What was refused, as something that was done before.
#[track_caller]
pub fn settled<T: std::fmt::Debug>(acted: Acted<T>) -> String {
    match acted.unwrap_err() {
        Refusal::Settled(sentence) => sentence,
        other @ (Refusal::Missing(_) | Refusal::Impossible(_)) => panic!("{other:?}"),
    }
}

/// A customer with one payment, a dead letter, and one payment more.
async fn with_a_dead_letter(settings: &[&str]) -> (Harness, Operations, i64) {
    let settings = [&["--attempts-max=1", "--retention=1h"], settings].concat();
    let mut h = Harness::gateway(&settings).await.account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    h.api.pay_all("ADA", &[("a1", "1"), ("POISON", "20"), ("a2", "3")]).await;
    h.work().await;
    assert_eq!(h.api.payment("POISON").await["status"], "dead_lettered");
    let (operations, id) = (operations(&h.stores).await, id_of(&h.stores, "POISON").await);
    (h, operations, id)
}

async fn redrive(operations: &Operations, id: i64) -> Acted<LetterReport> {
    operations.redrive(id, &signed("ada"), false).await.unwrap()
}

#[tokio::test]
async fn a_dead_letter_is_redriven_once() {
    let (h, operations, id) = with_a_dead_letter(&[]).await;
    // It fails as before.
    let before = everything(&h.stores).await;
    for dry_run in [true, false] {
        let refused = operations.redrive(id, &signed("ada"), dry_run).await.unwrap().unwrap_err();
        assert!(matches!(refused, Refusal::Impossible(_)), "{refused:?}");
        assert!(refused.sentence().contains("no payment is called POISON"), "{refused:?}");
        assert_eq!(everything(&h.stores).await, before);
    }
    allow_poison(&h.stores).await;
    let would = operations.redrive(id, &signed("ada"), true).await.unwrap().unwrap();
    assert_eq!(would.sentence, "would be 20.00 applied to ADA, 76.00 left to pay");
    assert_eq!(everything(&h.stores).await, before, "a dry run changes nothing");
    // What is cached of its balance is not true afterwards.
    assert_eq!(h.api.balance("ADA").await["total_paid"], "4.00");

    let done = redrive(&operations, id).await.unwrap();
    assert_eq!((done.redriven, done.outcome.as_deref()), (Some(true), Some("applied")));
    assert_eq!(h.api.balance("ADA").await["total_paid"], "24.00");
    let found = h.api.payment("POISON").await;
    assert_eq!(found["status"], "applied", "{found}");
    has(&found, json!({"account_version": 3, "balance_after": "76.00", "sequence": 2}));
    let letter = operations.dead_letter(id).await.unwrap().unwrap();
    assert_eq!((&*letter.state, letter.actions.len()), ("redriven", 0));
    assert!(letter.resolved_at.is_some());
    assert_eq!(letter.customer_id.as_deref(), Some("ADA"));
    assert_eq!(letter.transaction_amount.unwrap().to_string(), "20.00");
    h.stores.audit().await;

    let after = everything(&h.stores).await;
    let again = settled(redrive(&operations, id).await);
    assert!(again.starts_with(&format!("dead letter {id} was redriven by ada at 2")), "{again}");
    let discard = settled(operations.discard(id, &signed("bob")).await.unwrap());
    assert_eq!(discard, again);
    let missing = redrive(&operations, id + 99).await.unwrap_err();
    assert!(matches!(missing, Refusal::Missing(_)), "{missing:?}");
    assert_eq!(everything(&h.stores).await, after);
    let (before, after) =
        noted_by(&h.stores, "dead_letter_redriven", ["ada", "POISON", "the rule is gone"]).await;
    assert_eq!(before, json!({"dead_letter": id, "state": "dead"}));
    assert_eq!(
        after,
        json!({"dead_letter": id, "state": "redriven", "outcome": "applied",
            "balance_after": "76.00"})
    );
    assert_eq!(h.stores.count(CHANGES).await, 1);
    read_again(&h).await;
    h.api.pay("a3", "ADA", "1").await;
    h.settled().await;
}

#[tokio::test]
async fn of_many_operators_at_once_one_redrives() {
    let (h, operations, id) = with_a_dead_letter(&[]).await;
    allow_poison(&h.stores).await;
    let names: Vec<Signature> = (0..8).map(|n| signed(&format!("operator {n}"))).collect();
    let mut discards = Vec::new();
    let mut redrives = Vec::new();
    for (n, name) in names.iter().enumerate() {
        match n % 4 {
            0 => discards.push(operations.discard(id, name)),
            _ => redrives.push(operations.redrive(id, name, false)),
        }
    }
    let (redrives, discards) = tokio::join!(join_all(redrives), join_all(discards));
    let redrives: Vec<_> = redrives.into_iter().map(Result::unwrap).collect();
    let discards: Vec<_> = discards.into_iter().map(Result::unwrap).collect();
    let won = redrives.iter().filter(|one| one.is_ok()).count();
    let won = won + discards.iter().filter(|one| one.is_ok()).count();
    assert_eq!(won, 1, "{redrives:?} {discards:?}");
    for refused in redrives.into_iter().filter(Result::is_err) {
        assert!(settled(refused).contains("by operator"));
    }
    assert_eq!(h.stores.count(CHANGES).await, 1);
    let state = operations.dead_letter(id).await.unwrap().unwrap().state;
    let paid = if state == "redriven" { "24.00" } else { "4.00" };
    assert_eq!(h.api.balance("ADA").await["total_paid"], paid, "{state}");
    h.stores.audit().await;
    read_again(&h).await;
}

#[tokio::test]
async fn every_outcome_of_a_redrive_is_accounted_for() {
    let mut h = Harness::gateway(&["--attempts-max=1", "--retention=1h"]).await;
    refuse_poison(&h.stores).await;
    let held = "create trigger refuse_poison before insert on suspense
         for each row execute function refuse_poison()";
    h.stores.sql(held).await;
    h.api.open_account("ADA", "100").await;
    let pending = |name: &str, customer: &str| {
        but(payment(name, customer, "5"), json!({"payment_status": "PENDING"}))
    };
    for sent in [
        payment("POISON-applied", "ADA", "10"),
        pending("POISON-recorded", "ADA"),
        pending("POISON-alone", "GHOST"),
        payment("POISON-held", "GHOST", "7"),
        payment("POISON-again", "ADA", "11"),
        payment("POISON-other", "ADA", "12"),
    ] {
        h.api.post_payment(&sent).await.is(202);
    }
    h.work().await;
    assert_eq!(h.stores.count("select count(*) from dead_letters").await, 6);
    allow_poison(&h.stores).await;
    h.stores.sql("drop trigger refuse_poison on suspense").await;
    // The bank sends two of them again, one of them with another amount.
    h.stores.forget().await;
    h.api.pay("POISON-again", "ADA", "11").await;
    h.api.pay("POISON-other", "ADA", "13").await;
    h.settled().await;

    let operations = operations(&h.stores).await;
    for (name, outcome, says) in [
        ("POISON-held", "suspense", "no customer has the id GHOST"),
        ("POISON-other", "conflict", "another payment came under its reference"),
        ("POISON-again", "duplicate", "came again meanwhile"),
        ("POISON-alone", "recorded", "no money moved"),
        ("POISON-recorded", "recorded", "no money moved"),
        ("POISON-applied", "applied", "10.00 applied to ADA, 66.00 left to pay"),
    ] {
        let done = redrive(&operations, id_of(&h.stores, name).await).await.unwrap();
        assert_eq!(done.outcome.as_deref(), Some(outcome), "{done:?}");
        assert!(done.sentence.contains(says), "{done:?}");
        h.stores.audit().await;
        read_again(&h).await;
    }
    h.api
        .statuses(&[
            ("POISON-applied", "applied"),
            ("POISON-recorded", "recorded"),
            ("POISON-alone", "recorded"),
            ("POISON-held", "suspense"),
            ("POISON-again", "applied"),
            ("POISON-other", "applied"),
        ])
        .await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "34.00");
    h.api.open_account("GHOST", "100").await;
    assert_eq!(h.api.balance("GHOST").await["total_paid"], "7.00");
    h.settled().await;
}

#[tokio::test]
async fn a_parked_customers_dead_letter_is_settled_before_what_waits_for_it() {
    let (h, operations, id) = with_a_dead_letter(&["--park-customer"]).await;
    allow_poison(&h.stores).await;
    let done = redrive(&operations, id).await.unwrap();
    assert!(done.sentence.starts_with("20.00 applied to ADA, 79.00 left to pay"), "{done:?}");
    assert!(done.sentence.contains("`paystream parked release ADA --reason "), "{done:?}");
    h.api.pay("a3", "ADA", "4").await;
    h.settled().await;
    for name in ["a2", "a3"] {
        assert_eq!(h.api.payment(name).await["status"], "parked", "{name}");
    }
    let release = ["parked", "release", "ADA", "--reason", "it is settled", "--actor", "ada"];
    h.stores.succeed(&release).await;
    for (version, name) in [(1, "a1"), (2, "POISON"), (3, "a2"), (4, "a3")] {
        assert_eq!(h.api.payment(name).await["account_version"], version, "{name}");
    }
    let (_, subject, _, before, after) = logged(&h.stores, "parked_released").await;
    assert_eq!((&*subject, &before["payments"], &after["payments"]), ("ADA", &json!(2), &json!(2)));
    assert!(before["parked_at"].is_string() && after["parked_at"].is_null());
    read_again(&h).await;
}

#[tokio::test]
async fn a_discarded_dead_letter_stays_findable_and_is_never_settled() {
    let (h, operations, id) = with_a_dead_letter(&[]).await;
    allow_poison(&h.stores).await;
    operations.discard(id, &signed("bob")).await.unwrap().unwrap();
    let found = h.api.payment("POISON").await;
    assert_eq!((&found["status"], &found["customer_id"]), (&json!("discarded"), &json!("ADA")));
    let (before, after) =
        noted_by(&h.stores, "dead_letter_discarded", ["bob", "POISON", "the rule is gone"]).await;
    assert_eq!((&before["state"], &after["state"]), (&json!("dead"), &json!("discarded")));
    let after = everything(&h.stores).await;
    for acted in [
        redrive(&operations, id).await.map(drop),
        operations.redrive(id, &signed("ada"), true).await.unwrap().map(drop),
        operations.discard(id, &signed("ada")).await.unwrap().map(drop),
    ] {
        let sentence = settled(acted);
        assert!(sentence.contains("was discarded by bob at 2"), "{sentence}");
    }
    assert_eq!(everything(&h.stores).await, after);
    read_again(&h).await;
    // The bank sends it again: now it counts.
    h.stores.forget().await;
    h.api.pay("POISON", "ADA", "20").await;
    h.settled().await;
    assert_eq!(h.api.payment("POISON").await["status"], "applied");
    read_again(&h).await;
}

/// Transactions of this database that wait for an advisory lock.
const WAITING: &str = "from pg_locks where locktype = 'advisory' and not granted
     and database = (select oid from pg_database where datname = current_database())";

#[tokio::test]
async fn a_redrive_that_loses_postgresql_changes_nothing() {
    let (h, operations, id) = with_a_dead_letter(&[]).await;
    h.stores
        .sql(
            "create or replace function refuse_poison() returns trigger language plpgsql as $$
         begin
             perform pg_advisory_xact_lock(9);
             return new;
         end $$;
             create constraint trigger at_the_end after insert on audit_log
         for each row execute function refuse_poison();
             drop trigger refuse_poison on processed_transactions",
        )
        .await;
    let before = everything(&h.stores).await;
    let lock = h.stores.advisory_lock(9).await;
    let kill = async {
        let kill = format!("select count(pg_terminate_backend(pid)) {WAITING}");
        until("the redrive is under way", async || h.stores.count(&kill).await > 0).await;
    };
    let by = signed("ada");
    let (ended, ()) = tokio::join!(operations.redrive(id, &by, false), kill);
    assert!(ended.unwrap_err().is_outage());
    assert_eq!(everything(&h.stores).await, before);
    lock.close().await.unwrap();
    redrive(&operations, id).await.unwrap();
    h.stores.audit().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_discarded_or_waits_for_a_release_that_can() {
    let mut h = Harness::gateway(&["--retention=1h"]).await.account("ADA", "100").await;
    let partition = h.api.pay_into("a1").await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (sequence, name) in [("2", "late"), ("3", "never")] {
        let sent = json!({"transaction_reference": name, "customer_id": "ADA",
            "payment_status": "COMPLETE", "transaction_amount": "5.00",
            "transaction_date": "2025-11-07T13:54:16Z"});
        let fields = format!("v 99 seq {sequence} received_at 1762523656123 traceparent {trace}");
        h.stores.forge(partition, &fields, &sent).await;
        h.stores.tell(&["INCR", &h.stores.key(partition, "seq")]).await;
    }
    h.work().await;
    let (operations, id) = (operations(&h.stores).await, id_of(&h.stores, "late").await);
    let letter = operations.dead_letter(id).await.unwrap().unwrap();
    assert_eq!((letter.customer_id.as_deref(), &*letter.code), (Some("ADA"), "entry_unreadable"));
    assert_eq!(letter.transaction_amount.unwrap().to_string(), "5.00");
    assert_eq!(letter.actions.iter().map(|one| one.code).collect::<Vec<_>>(), ["discard"]);
    let refused = redrive(&operations, id).await.unwrap_err();
    assert!(matches!(refused, Refusal::Impossible(_)), "{refused:?}");
    assert!(refused.sentence().contains("version 99 is not known"), "{refused:?}");
    assert!(refused.sentence().contains("a release that can read it"), "{refused:?}");
    let never = id_of(&h.stores, "never").await;
    operations.discard(never, &signed("bob")).await.unwrap().unwrap();
    read_again(&h).await;
    // What a later release makes of it.
    let readable = "update dead_letters set entry = jsonb_set(entry, '{v}', '\"1\"')
         where transaction_reference = 'late'";
    h.stores.sql(readable).await;
    redrive(&operations, id).await.unwrap();
    assert_eq!(h.api.payment("late").await["status"], "applied");
    let traced = "select count(*) from processed_transactions
         where encode(trace_id, 'hex') = '0af7651916cd43dd8448eb211c80319c'";
    assert_eq!(h.stores.count(traced).await, 1);
    h.settled().await;
}

#[tokio::test]
async fn dead_letters_of_an_earlier_topology_are_redriven() {
    let stores = Stores::new().await;
    refuse_poison(&stores).await;
    let settings = [("PAYSTREAM_ATTEMPTS_MAX", "1")];
    let gateway = Process::serve("gateway", &stores, &[]).await;
    let _worker = Process::serve("worker", &stores, &settings).await;
    let customers: Vec<String> = (0..8).map(|n| format!("CUSTOMER{n}")).collect();
    for customer in &customers {
        gateway.api.open_account(customer, "100").await;
        gateway.api.pay(&format!("POISON-{customer}"), customer, "5").await;
        gateway.api.pay(&format!("early-{customer}"), customer, "6").await;
    }
    gateway.api.until_settled().await;
    stores.succeed(&resize(&["--partitions", "3"])).await;
    served(&gateway, 3).await;
    for customer in &customers {
        gateway.api.pay(&format!("later-{customer}"), customer, "7").await;
    }
    gateway.api.until_settled().await;
    let gone = "select count(*) from dead_letters where partition >= 3";
    assert!(stores.count(gone).await > 0, "some were in partitions that are no more");
    allow_poison(&stores).await;
    let operations = operations(&stores).await;
    for customer in &customers {
        let id = id_of(&stores, &format!("POISON-{customer}")).await;
        let done = redrive(&operations, id).await.unwrap();
        assert_eq!(done.outcome.as_deref(), Some("applied"), "{done:?}");
        assert_eq!(gateway.api.balance(customer).await["total_paid"], "18.00");
    }
    stores.audit().await;
}

async fn dead_letters(stores: &Stores, arguments: &[&str]) -> Ended {
    stores.run(&[&["dead-letters"], arguments].concat()).await
}

#[tokio::test]
async fn many_dead_letters_are_mended_in_their_order_from_the_command_line() {
    let mut h = Harness::gateway(&["--attempts-max=1", "--retention=1h"]).await;
    refuse_poison(&h.stores).await;
    for customer in ["ADA", "BOB"] {
        h.api.open_account(customer, "100").await;
    }
    for n in 0..5 {
        h.api.pay(&format!("POISON-a{n}"), "ADA", "1").await;
        h.api.pay(&format!("POISON-b{n}"), "BOB", "2").await;
    }
    h.api.pay("POISON-BAD", "ADA", "3").await;
    h.work().await;
    let still = "create or replace function refuse_poison() returns trigger language plpgsql as $$
         begin
             if new.transaction_reference = 'POISON-BAD' then raise exception 'still bad'; end if;
             return new;
         end $$";
    h.stores.sql(still).await;
    let before = everything(&h.stores).await;

    let list = dead_letters(&h.stores, &["list", "--customer", "BOB", "--limit=3", "--json"]).await;
    let list = list.json();
    let listed: Vec<_> = list.as_array().unwrap().iter().collect();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[0]["transaction_reference"], "POISON-b4", "the latest first");
    let page = dead_letters(&h.stores, &["list", "--since=1h", "--code", "settle_failed"]).await;
    assert!(page.stdout.contains("POISON-a0") && page.stdout.contains("settle_failed"));
    let none = dead_letters(&h.stores, &["list", "--until=1h"]).await;
    none.is(0, "No dead letter matches");
    let shown = dead_letters(&h.stores, &["show", "POISON-a0"]).await;
    assert!(shown.stdout.contains("paystream dead-letters redrive"), "{}", shown.stdout);
    assert_eq!(dead_letters(&h.stores, &["show", "nobody"]).await.code(), Some(1));

    // Many are not changed unasked, and a dry run changes none.
    let all = ["redrive", "--all", "--reason", "mended"];
    let unasked = dead_letters(&h.stores, &all).await;
    assert_eq!(unasked.code(), Some(1), "{unasked:?}");
    assert!(unasked.stderr.contains("11 dead letters"), "{unasked:?}");
    let dry = dead_letters(&h.stores, &[&all[..], &["--dry-run"]].concat()).await;
    dry.is(1, "10 would be redriven, 1 refused; nothing was changed");
    assert_eq!(dry.stdout.matches("| would be redriven |").count(), 10, "{dry:?}");
    let empty = dead_letters(&h.stores, &["redrive", "--all", "--reason", " "]).await;
    assert_eq!(empty.code(), Some(2), "{empty:?}");
    assert_eq!(everything(&h.stores).await, before);

    let some = [&all[..], &["--yes", "--json", "--max=4"]].concat();
    let some = dead_letters(&h.stores, &some).await;
    let some = some.json();
    assert_eq!((&some["redriven"], &some["left"]), (&json!(4), &json!(7)), "{some}");
    let rest = dead_letters(&h.stores, &[&all[..], &["--yes"]].concat()).await;
    rest.is(1, "6 redriven, 1 refused\n");
    assert!(rest.stdout.contains("still bad"), "{rest:?}");
    for (customer, name) in [("ADA", "a"), ("BOB", "b")] {
        for n in 0..5 {
            let found = h.api.payment(&format!("POISON-{name}{n}")).await;
            assert_eq!(found["account_version"], n + 1, "{customer}: {found}");
        }
    }
    let bad = ["discard", "--reference", "POISON-BAD", "--reason", "the bank took it back"];
    dead_letters(&h.stores, &bad).await.is(0, "1 discarded, 0 refused\n");
    assert_eq!(dead_letters(&h.stores, &bad).await.code(), Some(1), "none is left");
    let id = id_of(&h.stores, "POISON-BAD").await.to_string();
    dead_letters(&h.stores, &["redrive", &id, "--reason", "again"])
        .await
        .is(1, "was discarded by ada");
    let shown = dead_letters(&h.stores, &["show", &id]).await;
    assert!(shown.stdout.contains("by ada: the bank took it back"), "{}", shown.stdout);
    read_again(&h).await;
}
