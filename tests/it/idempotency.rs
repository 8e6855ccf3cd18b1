//! Proves that a reference moves money at most once, however often it is sent,
//! redelivered or replayed, and that other content under it has no effect and
//! is kept.

use crate::prelude::*;

const BATCH: &str = "/api/v1/payments/batch";

#[tokio::test]
async fn sixty_identical_posts_at_once_are_one_payment() {
    let h = Harness::start().await.account("ADA", "1000").await;
    let mut posts = JoinSet::new();
    for _ in 0..60 {
        let api = h.api.clone();
        posts.spawn(async move { api.post_payment(&payment("same", "ADA", "10")).await });
    }
    let (mut accepted, mut replayed, mut places) = (0, 0, HashSet::new());
    while let Some(reply) = posts.join_next().await {
        let reply = reply.unwrap();
        match (reply.status, reply.header("idempotent-replayed")) {
            (202, "") => accepted += 1,
            (200, "true") => replayed += 1,
            other => panic!("{other:?} {}", reply.text),
        }
        places.insert(reply.text);
    }
    assert_eq!((accepted, replayed), (1, 59));
    assert_eq!(places.len(), 1, "every answer names the same place");
    h.settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "10.00");
    assert_eq!(h.api.stats().await["totals"]["payments"], 1);
}

#[tokio::test]
async fn a_repetition_that_the_stream_has_forgotten_is_found_by_the_ledger() {
    let mut h = Harness::gateway(&["--batch-max", "4"]).await.account("ADA", "1000").await;
    let forget = async || assert_ne!(h.stores.forget().await, 0);
    // Three entries of the same payment in one batch of the worker, and more in
    // the next one.
    for _ in 0..3 {
        h.api.pay("r", "ADA", "10").await;
        forget().await;
    }
    h.api.pay_each("other", 0..6).await;
    h.api.pay("r", "ADA", "10").await;
    forget().await;
    h.work().await;
    // And one after everything is settled, which waits for its outcome.
    let forget = h.stores.forget().await;
    assert_eq!(forget, 0, "the last was forgotten before");
    let late = h.api.pay_and_wait(&payment("r", "ADA", "10")).await;
    assert_eq!((late.status, &late.json()["status"]), (200, &json!("applied")), "{}", late.text);
    h.settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "16.00");
    let totals = &h.api.stats().await["totals"];
    assert_eq!((&totals["applied"], &totals["duplicates"]), (&json!(7), &json!(4)));
}

#[tokio::test]
async fn repetitions_of_notices_and_of_suspense_have_no_effect_either() {
    let h = Harness::start().await.account("ADA", "1000").await;
    let notice = but(payment("n", "ADA", "10"), json!({"payment_status": "PENDING"}));
    for _ in 0..3 {
        h.api.post_payment(&notice).await.is(202);
        h.api.pay("held", "NOBODY", "5").await;
        h.stores.forget().await;
    }
    h.settled().await;
    let totals = &h.api.stats().await["totals"];
    let counts = ["recorded", "suspense", "duplicates", "conflicts"].map(|name| &totals[name]);
    assert_eq!(counts, [1, 1, 4, 0]);
    // Sent again once the money has left suspense.
    h.api.open_account("NOBODY", "100").await;
    h.api.pay("held", "NOBODY", "5").await;
    h.settled().await;
    assert_eq!(h.api.balance("NOBODY").await["total_paid"], "5.00");
    assert_eq!(h.api.stats().await["totals"]["duplicates"], 5);
}

#[tokio::test]
async fn other_content_under_a_used_reference_has_no_effect_and_is_kept() {
    let h = Harness::start().await.account("ADA", "1000").await;
    let elsewhere = elsewhere("ADA");
    h.api.open_account(&elsewhere, "1000").await;
    h.api.pay("r", "ADA", "10").await;
    h.settled().await;
    // Another customer in another partition, then, forgotten by the stream,
    // another amount, another date; each twice.
    let others = [
        payment("r", &elsewhere, "10"),
        payment("r", "ADA", "11"),
        but(payment("r", "ADA", "10"), json!({"transaction_date": "2025-11-07 14:54:17"})),
    ];
    for other in others.iter().chain(&others) {
        h.stores.forget().await;
        h.api.pay_and_wait(other).await.is_problem(409, "reference_conflict");
    }
    h.settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "10.00");
    assert_eq!(h.api.balance(&elsewhere).await["version"], 0);
    let conflicts = h.api.payment("r").await["conflicts"].clone();
    let seen: Vec<(&Value, &Value)> = conflicts
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["customer_id"], &one["transaction_amount"]))
        .collect();
    let (ada, other) = (json!("ADA"), json!(elsewhere));
    let (ten, eleven) = (json!("10.00"), json!("11.00"));
    let once = [(&other, &ten), (&ada, &eleven), (&ada, &ten)];
    assert_eq!(seen, [once, once].concat());
    assert_eq!(h.api.stats().await["totals"]["conflicts"], 6);
}

/// Another customer, of this one's partition or of another.
fn customer_beside(customer: &str, together: bool) -> String {
    let partition = |name: &str| partition_of(&CustomerId::parse(name).unwrap(), PARTITIONS);
    let mut names = (0..).map(|n| format!("OTHER{n}")).filter(|name| name != customer);
    names.find(|name| (partition(name) == partition(customer)) == together).unwrap()
}

/// A customer of another partition than this one's.
pub fn elsewhere(customer: &str) -> String {
    customer_beside(customer, false)
}

/// A gateway, two workers, and a customer whom the other settles than the one that settles ADA.
async fn two_workers(settings: &[(&str, &str)]) -> (Harness, [Process; 2], String) {
    let h = Harness::gateway(&[]).await;
    let (a, b) = tokio::join!(worker(&h.stores, "a", settings), worker(&h.stores, "b", settings));
    until_spread(&h.stores, &["a", "b"]).await;
    let owners = owners(&h.stores).await;
    let owner = |name: &str| {
        &owners[usize::from(partition_of(&CustomerId::parse(name).unwrap(), PARTITIONS))]
    };
    let mut names = (0..).map(|n| format!("OTHER{n}"));
    let other = names.find(|name| owner(name) != owner("ADA")).unwrap();
    (h, [a, b], other)
}

#[tokio::test]
async fn one_reference_for_two_customers_at_once_pays_one_of_them() {
    let (h, _workers, elsewhere) = two_workers(&[("PAYSTREAM_BATCH_MAX", "10")]).await;
    h.api.open_account("ADA", "1000").await;
    h.api.open_account(&elsewhere, "1000").await;
    // Both partitions are settled at once, and meet at the key.
    let items = |customer: &str| {
        json!((0..200).map(|n| payment(&format!("r{n}"), customer, "1")).collect::<Vec<_>>())
    };
    let (ada, other) = (items("ADA"), items(&elsewhere));
    let (ada, other) = tokio::join!(h.api.post(BATCH, &ada), h.api.post(BATCH, &other));
    assert_eq!((&ada.json()["accepted"], &other.json()["accepted"]), (&json!(200), &json!(200)));
    h.settled().await;
    let totals = &h.api.stats().await["totals"];
    assert_eq!((&totals["applied"], &totals["conflicts"]), (&json!(200), &json!(200)));
    assert_eq!(totals["amount"], "200.00");
}

/// Of one reference for a customer who is known and for one who is not, the one
/// that comes second while the first is not committed yet has no effect.
async fn one_place(first_is_known: bool) {
    let (h, _workers, unknown) = two_workers(&[]).await;
    // Whoever is to be held up shares a batch with ADA's account, which is locked.
    let neighbour = customer_beside(&unknown, true);
    for customer in ["ADA", &neighbour] {
        h.api.open_account(customer, "1000").await;
    }
    let locked = if first_is_known { "ADA" } else { &neighbour };
    let mut foreign = h.stores.pool.begin().await.unwrap();
    sqlx::query("select from customer_accounts where customer_id = $1 for update")
        .bind(locked)
        .execute(&mut *foreign)
        .await
        .unwrap();
    let of_ada = json!([payment("r", "ADA", "1")]);
    let of_unknown = json!([payment("r", &unknown, "1"), payment("n", &neighbour, "1")]);
    let (first, second) = if first_is_known { (of_ada, of_unknown) } else { (of_unknown, of_ada) };
    for (waiting, items) in [(1, first), (2, second)] {
        h.api.post(BATCH, &items).await.is(200);
        until("its batch waits", async || {
            let waits = "select count(*) from pg_stat_activity
                 where wait_event_type = 'Lock' and datname = current_database()";
            // Or it is settled, which is what must not be.
            let done = "select (select count(*) from suspense)
                 + (select count(*) from processed_transactions where transaction_reference = 'r')";
            let (waits, done) = (h.stores.count(waits).await, h.stores.count(done).await);
            waits + done >= waiting
        })
        .await;
    }
    foreign.rollback().await.unwrap();
    // The audit is part of it.
    h.settled().await;
    let totals = &h.api.stats().await["totals"];
    // The neighbour, and ADA if hers came first.
    let (held, applied) = (i64::from(!first_is_known), 1 + i64::from(first_is_known));
    let seen = [&totals["suspense"], &totals["applied"], &totals["conflicts"]];
    assert_eq!(seen, [&json!(held), &json!(applied), &json!(1)]);
}

cases! { one_place:
    a_reference_that_is_being_applied_is_not_held_for_another_customer(true);
    a_reference_that_is_being_held_is_not_applied_for_another_customer(false);
}

/// Ledgers of earlier releases may have a reference in two places.
#[tokio::test]
async fn an_account_is_opened_although_a_held_reference_is_parked_too() {
    let h = Harness::start().await;
    let unknown = elsewhere("ADA");
    h.api.open_account("ADA", "1000").await;
    h.api.pay("r", &unknown, "1").await;
    h.settled().await;
    let sql = "set session_replication_role = replica;
         insert into parked (partition, sequence, transaction_reference, payment_status,
             customer_id, amount, stream_id, epoch, transaction_date, received_at, payload_digest)
         select (partition + 1) % 8, sequence, transaction_reference, 'COMPLETE', 'ADA', amount,
             stream_id, epoch, transaction_date, received_at, payload_digest from suspense;
         update customer_accounts set parked_at = now() where customer_id = 'ADA';
         reset session_replication_role";
    h.stores.sql(sql).await;
    h.api.open_account(&unknown, "1000").await;
    h.stores.succeed(&["parked", "release", "ADA", "--reason", "both were held"]).await;
    assert_eq!(h.api.balance(&unknown).await["total_paid"], "1.00");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "0.00", "it is applied once");
    assert_eq!(h.stores.count("select count(*) from duplicates").await, 1);
}

/// The same where it moved another customer's money: neither opening nor assigning
/// applies it again, and both go on.
#[tokio::test]
async fn held_money_whose_reference_was_used_becomes_a_conflict() {
    let h = Harness::start().await;
    let unknown = elsewhere("ADA");
    h.api.open_account("ADA", "1000").await;
    for (held, used) in [("r1", "b1"), ("r2", "b2")] {
        h.api.pay(held, &unknown, "1").await;
        h.api.pay(used, "ADA", "2").await;
    }
    h.settled().await;
    let sql = "set session_replication_role = replica;
         update processed_transactions
         set transaction_reference = 'r' || substr(transaction_reference, 2);
         delete from used_references where transaction_reference like 'r%';
         update used_references
         set transaction_reference = 'r' || substr(transaction_reference, 2);
         reset session_replication_role";
    h.stores.sql(sql).await;
    let operations = operations(&h.stores).await;
    let (reference, ada) = (Reference::parse("r2").unwrap(), CustomerId::parse("ADA").unwrap());
    let assign = Act::Assign { reference, customer: Some(ada) };
    let assigned = operations.perform(&assign, &signed("ada")).await.unwrap().unwrap();
    assert!(assigned.sentence.contains("conflict"), "{}", assigned.sentence);
    h.api.open_account(&unknown, "1000").await;
    assert_eq!(h.api.balance(&unknown).await["total_paid"], "0.00");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "4.00");
    assert_eq!(h.stores.count("select count(*) from suspense where state = 'conflict'").await, 2);
    assert_eq!(h.stores.count("select count(*) from conflicts").await, 2);
}

#[tokio::test]
async fn reading_the_whole_stream_again_changes_nothing() {
    let h = Harness::with(&["--retention", "1h", "--batch-max", "50"]).await;
    h.api.seed(30).await;
    let items: Vec<Value> = (0..600)
        .map(|n| {
            // Some for nobody, some notices, some repeated.
            let customer = format!("GIG{:05}", n % 33 + 1);
            let status = if n % 10 == 0 { "PENDING" } else { "COMPLETE" };
            let sent = payment(&format!("r{}", n % 550), &customer, &format!("{}.50", n % 550 + 1));
            but(sent, json!({"payment_status": status}))
        })
        .collect();
    h.api.post(BATCH, &json!(items)).await.is(200);
    h.settled().await;
    for (table, least) in [("processed_transactions", 401), ("suspense", 1)] {
        assert!(h.stores.count(&format!("select count(*) from {table}")).await >= least);
    }
    let cursors = "select concat(partition, ' ', last_sequence, ' ', last_stream_id)
         from partition_owners order by partition";
    let before = h.stores.texts(cursors).await;
    read_again(&h).await;
    assert_eq!(h.stores.texts(cursors).await, before);
}

#[tokio::test]
async fn what_a_crashed_worker_left_pending_is_settled_once() {
    let mut h = Harness::gateway(&["--batch-max", "7"]).await;
    h.api.seed(5).await;
    for round in 0..10 {
        let items: Vec<Value> = (0..60)
            .map(|n| payment(&format!("{round}-{n}"), &format!("GIG{:05}", n % 5 + 1), "1"))
            .collect();
        h.api.post(BATCH, &json!(items)).await;
        h.start_worker();
        // Crashed wherever it stands once it has settled something new.
        until("the worker is at work", async || {
            let done = h.stores.count("select count(*) from processed_transactions").await;
            done > round * 60
        })
        .await;
        h.crash_worker();
    }
    h.work().await;
    assert_eq!(h.api.stats().await["totals"]["applied"], 600);
}

#[tokio::test]
async fn the_largest_batch_that_may_be_set_can_be_reclaimed() {
    let mut h = Harness::gateway(&["--batch-max", "10000", "--lanes", "1"]).await;
    h.api.open_account("ADA", "1000000").await;
    let items: Vec<Value> = (0..9_000).map(|n| payment(&format!("r{n}"), "ADA", "1")).collect();
    for half in items.chunks(4_500) {
        let reply = h.api.post(BATCH, &json!(half)).await;
        assert_eq!(reply.json()["accepted"], 4_500);
    }
    // Somebody took all of it and vanished.
    let partition = partition_of(&CustomerId::parse("ADA").unwrap(), PARTITIONS);
    h.stores.hand_out(partition.into(), "ledger", "vanished", 9000).await;
    h.work().await;
    assert_eq!(h.api.stats().await["totals"]["applied"], 9_000);
}
