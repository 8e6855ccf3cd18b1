//! Proves the walk of a payment: from the door to the balance, through
//! suspense, credit and the notices of one reference; and that the cache of
//! balances is never older than what was reported, whatever happens to it.

use std::time::Instant;

use paystream::{
    operations::LetterFilter,
    stream::{Balances, Lookup},
};

use crate::prelude::*;

#[tokio::test]
async fn a_payment_walks_from_the_door_to_the_balance() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000.00").await;
    h.api.pay("r1", "ADA", "400.50").await;
    assert_eq!(h.api.payment("r1").await["status"], "accepted");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "0.00");
    h.work().await;
    let wanted = json!({
        "status": "applied", "payment_status": "COMPLETE", "customer_id": "ADA",
        "transaction_amount": "400.50", "applied_amount": "400.50", "excess_amount": "0.00",
        "balance_after": "599.50", "account_version": 1, "transaction_date": "2025-11-07T13:54:16Z",
    });
    has(&h.api.payment("r1").await, wanted);
    let wanted = json!({
        "customer_id": "ADA", "asset_value": "1000.00", "total_paid": "400.50",
        "outstanding_balance": "599.50", "credit": "0.00", "version": 1,
    });
    has(&h.api.balance("ADA").await, wanted);
}

#[tokio::test]
async fn payments_gather_until_a_lane_has_lingered() {
    let stores = Stores::new().await;
    let settings = [("PAYSTREAM_LANES", "1"), ("PAYSTREAM_LINGER", "1s")];
    let all = Process::serve("all", &stores, &settings).await;
    all.api.seed(20).await;
    // Then the lane has its partitions.
    assert_eq!(all.api.pay_and_wait(&payment("first", "GIG00001", "1")).await.status, 200);
    let began = Instant::now();
    all.api.pay_seeded("r", 20, 20).await;
    all.api.until_settled().await;
    let batches = "select count(distinct xmin::text) from processed_transactions";
    let batches = u64::try_from(stores.count(batches).await).unwrap();
    let took = began.elapsed();
    assert!(batches <= took.as_secs() + 3, "{batches} transactions in {took:?}");
}

#[tokio::test]
async fn a_lane_that_does_not_keep_up_shares_its_partitions() {
    let (stores, gateway) = with_gateway().await;
    let load = Load::start(&gateway.api, "behind");
    let settings = [("PAYSTREAM_LANES", "3"), ("PAYSTREAM_BATCH_MAX", "1")];
    let worker = worker(&stores, "a", &settings).await;
    until("three lanes are connected", async || sessions(&stores, "a", "true").await == 3).await;
    verify_after(&stores, &gateway.api, load).await;
    let moved = "select count(*) from partition_owners where epoch > 1";
    assert_eq!(stores.count(moved).await, 0, "lanes change under the same epoch");
    let log = worker.log();
    assert!(!log.contains("fenced") && !log.contains("reclaimed pending entries"), "{log}");
}

#[tokio::test]
async fn what_is_paid_beyond_the_value_becomes_credit() {
    let h = Harness::start().await.account("ADA", "100.00").await;
    h.api.pay_all("ADA", &[("r1", "60"), ("r2", "60"), ("r3", "5.25")]).await;
    h.settled().await;
    for (reference, applied, excess, after) in [
        ("r1", "60.00", "0.00", "40.00"),
        ("r2", "40.00", "20.00", "0.00"),
        ("r3", "0.00", "5.25", "0.00"),
    ] {
        let parts =
            json!({"applied_amount": applied, "excess_amount": excess, "balance_after": after});
        has(&h.api.payment(reference).await, parts);
    }
    let balance = h.api.balance("ADA").await;
    assert_eq!((&balance["total_paid"], &balance["credit"]), (&json!("100.00"), &json!("25.25")));
    assert_eq!(h.api.stats().await["customers"]["completed"], 1);
}

#[tokio::test]
async fn notices_do_not_use_up_a_reference() {
    let h = Harness::start().await.account("ADA", "100.00").await;
    let complete = payment("r", "ADA", "10");
    for status in ["PENDING", "FAILED", "COMPLETE", "PENDING", "FAILED", "COMPLETE"] {
        let sent = but(complete.clone(), json!({"payment_status": status}));
        let reply = h.api.post_payment(&sent).await;
        assert!(matches!(reply.status, 200 | 202), "{status}");
    }
    // A notice may name another amount than the payment; that is no conflict.
    let other = but(payment("q", "ADA", "3"), json!({"payment_status": "PENDING"}));
    h.api.post_payment(&other).await;
    h.api.pay("q", "ADA", "4").await;
    h.settled().await;
    let found = h.api.payment("r").await;
    has(&found, json!({"status": "applied", "payment_status": "COMPLETE"}));
    let notices: Vec<(&str, &str)> = found["notices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["status"].as_str().unwrap(), one["payment_status"].as_str().unwrap()))
        .collect();
    assert_eq!(notices, [("recorded", "PENDING"), ("recorded", "FAILED")]);
    let balance = h.api.balance("ADA").await;
    assert_eq!((&balance["total_paid"], &balance["version"]), (&json!("14.00"), &json!(5)));
    let totals = &h.api.stats().await["totals"];
    assert_eq!((&totals["applied"], &totals["recorded"]), (&json!(2), &json!(3)));
}

#[tokio::test]
async fn money_for_an_unknown_customer_waits_and_is_applied_in_order() {
    let h = Harness::start().await;
    h.api.pay_all("LATE", &[("s1", "60"), ("s2", "30"), ("s3", "20")]).await;
    let failed = but(payment("s4", "LATE", "9"), json!({"payment_status": "FAILED"}));
    h.api.post_payment(&failed).await;
    h.settled().await;
    assert_eq!(h.api.payment("s2").await["status"], "suspense");
    assert_eq!(h.api.payment("s4").await["status"], "recorded");
    assert_eq!(h.api.stats().await["totals"]["suspense"], 3);
    let replay = h.api.post_payment(&payment("s2", "LATE", "30")).await;
    assert_eq!(replay.status, 200);

    h.api.open_account("LATE", "100").await;
    let balance = h.api.balance("LATE").await;
    assert_eq!((&balance["total_paid"], &balance["credit"]), (&json!("100.00"), &json!("10.00")));
    for (version, reference, after) in [(1, "s1", "40.00"), (2, "s2", "10.00"), (3, "s3", "0.00")] {
        let found = h.api.payment(reference).await;
        assert_eq!(found["status"], "applied", "{found}");
        assert_eq!(found["account_version"], version);
        assert_eq!(found["balance_after"], after);
    }
    h.api.pay("s5", "LATE", "1").await;
    h.settled().await;
    assert_eq!(h.api.payment("s5").await["account_version"], 4);
    assert_eq!(h.api.stats().await["totals"]["suspense"], 0);
}

#[tokio::test]
async fn accounts_opened_while_their_payments_stream_in_lose_none() {
    let h = Harness::with(&["--batch-max", "20"]).await;
    let customers: Vec<String> = (0..10).map(|n| format!("NEW{n}")).collect();
    for (n, customer) in customers.iter().enumerate() {
        let pay = |part: usize| {
            let items = (0..50).map(move |i| format!("{n}-{part}-{i}"));
            json!(items.map(|name| payment(&name, customer, "1.00")).collect::<Vec<_>>())
        };
        let (before, after) = (pay(0), pay(1));
        let path = "/api/v1/payments/batch";
        let (first, (), second) = tokio::join!(
            h.api.post(path, &before),
            h.api.open_account(customer, "60.00"),
            h.api.post(path, &after),
        );
        assert_eq!(
            (&first.json()["accepted"], &second.json()["accepted"]),
            (&json!(50), &json!(50))
        );
    }
    h.settled().await;
    for customer in &customers {
        let balance = h.api.balance(customer).await;
        has(&balance, json!({"total_paid": "60.00", "credit": "40.00"}));
    }
}

#[tokio::test]
async fn a_payment_reported_applied_is_in_every_balance_read_after_it() {
    let h = Harness::start().await.account("ADA", "1000000").await;
    for n in 1..=200_i64 {
        let outcome = h.api.pay_and_wait(&payment(&format!("r{n}"), "ADA", "1")).await;
        assert_eq!(outcome.json()["status"], "applied", "{}", outcome.text);
        // Twice: one read may fill the cache, the other hit it.
        for _ in 0..2 {
            let version = h.api.balance("ADA").await["version"].as_i64().unwrap();
            assert_eq!(version, n, "a balance older than what was reported");
        }
    }
    h.settled().await;
    // The cache works at all: a filled value is served though the ledger moved.
    let cached = h.stores.keys("*:balance:ADA").await;
    until("a balance is cached", async || {
        h.api.balance("ADA").await;
        let [key] = &h.stores.keys("*:balance:ADA").await[..] else { return false };
        h.stores.ask::<Option<String>>(&["GET", key]).await.is_some_and(|it| it.contains('{'))
    })
    .await;
    assert!(cached.len() <= 1, "{cached:?}");
}

#[tokio::test]
async fn readers_at_full_speed_never_see_a_balance_go_back() {
    let h = Harness::start().await;
    h.api.seed(4).await;
    let mut readers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let api = h.api.clone();
        readers.spawn(async move {
            let customer = format!("GIG{:05}", n % 4 + 1);
            let mut seen = 0;
            while seen < 100 {
                let version = api.balance(&customer).await["version"].as_i64().unwrap();
                assert!(version >= seen, "{customer} went from {seen} back to {version}");
                seen = version;
            }
        });
    }
    for n in 0..100 {
        let items: Vec<_> =
            (1..=4).map(|c| payment(&format!("{c}-{n}"), &format!("GIG{c:05}"), "1")).collect();
        let reply = h.api.post("/api/v1/payments/batch", &json!(items)).await;
        assert_eq!(reply.json()["accepted"], 4);
    }
    while let Some(reader) = in_time("readers see everything", readers.join_next()).await {
        reader.unwrap();
    }
    h.settled().await;
}

async fn cache(stores: &Stores) -> (Streams, Balances, CustomerId) {
    let streams = Streams::new(&stores.redis_url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    let balances = streams.balances(Duration::from_secs(60)).await.unwrap();
    (streams, balances, CustomerId::parse("ADA").unwrap())
}

#[tokio::test]
async fn a_slow_reader_cannot_put_an_old_balance_back() {
    let stores = Stores::new().await;
    let (streams, balances, ada) = cache(&stores).await;
    let partition = partition_of(&ada, PARTITIONS);
    let fence = Fence { partition, epoch: 1 };
    let mut consumer = streams.consumer("w", "first").await.unwrap();
    let get = async |token: &str| balances.get(&ada, token.to_owned()).await.unwrap();

    // A lease, then a batch, then the fill: refused.
    assert_eq!(get("slow").await, Lookup::Lease("slow".to_owned()));
    assert_eq!(get("other").await, Lookup::Pass, "one lease at a time");
    consumer.announce(&[fence], [&ada].into_iter()).await.unwrap();
    assert_eq!(get("during").await, Lookup::Pass, "no lease while a batch settles");
    balances.fill(&ada, "slow", "{\"old\":1}").await.unwrap();
    assert_eq!(get("during").await, Lookup::Pass);
    consumer.conclude(&[(fence, vec![])]).await.unwrap();
    balances.fill(&ada, "slow", "{\"old\":1}").await.unwrap();
    assert_eq!(get("fresh").await, Lookup::Lease("fresh".to_owned()));

    // The holder of the lease fills; a batch forgets it.
    balances.fill(&ada, "slow", "{\"old\":1}").await.unwrap();
    assert_eq!(get("x").await, Lookup::Pass);
    balances.fill(&ada, "fresh", "{\"new\":2}").await.unwrap();
    assert_eq!(get("x").await, Lookup::Hit("{\"new\":2}".to_owned()));
    consumer.announce(&[fence], [&ada].into_iter()).await.unwrap();
    assert_eq!(get("x").await, Lookup::Pass);

    // The end of an older owner's batch does not end ours.
    let older = Fence { partition, epoch: 0 };
    consumer.conclude(&[(older, vec![])]).await.unwrap();
    assert_eq!(get("x").await, Lookup::Pass);
    consumer.conclude(&[(fence, vec![])]).await.unwrap();
    assert_eq!(get("x").await, Lookup::Lease("x".to_owned()));
}

#[tokio::test]
async fn balances_are_right_though_the_cache_is_lost() {
    let h = Harness::start().await.account("ADA", "1000").await;
    for n in 1..=20 {
        let outcome = h.api.pay_and_wait(&payment(&format!("r{n}"), "ADA", "1")).await;
        assert_eq!(outcome.json()["status"], "applied");
        h.stores.delete_keys("*:balance:*").await;
        assert_eq!(h.api.balance("ADA").await["version"], n);
        h.stores.delete_keys("*:settling").await;
    }
    h.settled().await;
}

#[tokio::test]
async fn an_entry_that_is_no_payment_becomes_a_dead_letter_and_the_rest_flows_on() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    let place = h.api.pay("before", "ADA", "1").await;
    let partition = place["partition"].as_u64().unwrap();
    let poison = json!({"transaction_reference": "poison", "customer_id": "ADA",
        "payment_status": "COMPLETE", "transaction_amount": "-1", "transaction_date": "x"});
    let poison = poison.to_string();
    let entries: [&[&[u8]]; 3] = [
        &[b"v", b"1", b"seq", b"2", b"payment", poison.as_bytes(), b"received_at", b"1"],
        &[b"v", b"99"],
        &[b"\xff\xfe", b"\x00\xff"],
    ];
    for entry in entries {
        let mut command = redis::cmd("XADD");
        command.arg(h.stores.key(partition, "stream")).arg("*").arg(entry);
        command.exec_async(&mut h.stores.redis.clone()).await.unwrap();
    }
    h.stores.tell(&["SET", &h.stores.key(partition, "seq"), "2"]).await;
    h.api.pay("after", "ADA", "2").await;
    h.work().await;
    let found = h.api.payment("poison").await;
    assert_eq!((&found["status"], &found["sequence"]), (&json!("dead_lettered"), &json!(2)));
    assert!(found["reason"].as_str().unwrap().contains("transaction_amount"), "{found}");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "3.00");
    assert_eq!(h.api.stats().await["totals"]["dead_lettered"], 3);
    let notices: i64 = h.stores.ask(&["XLEN", &h.stores.key(partition, "dead")]).await;
    assert_eq!(notices, 3);
}

/// An entry that no gateway wrote.
async fn forge(stores: &Stores, partition: u64, sequence: &str) {
    let forged = json!({"transaction_reference": format!("forged-{sequence}"),
        "customer_id": "ADA", "payment_status": "COMPLETE", "transaction_amount": "5.00",
        "transaction_date": "2025-11-07T13:54:16Z"});
    let fields = format!("v 1 seq {sequence} received_at 1762523656123");
    stores.forge(partition, &fields, &forged).await;
}

#[tokio::test]
async fn a_sequence_that_was_never_given_out_stops_nobody_and_opens_no_loss() {
    let mut h = Harness::gateway(&["--retention=1h"]).await.account("ADA", "1000").await;
    let partition = h.api.pay_into("r1").await;
    let stream = h.stores.key(partition, "stream");
    // Some were handed out before, the others are new.
    for sequence in ["9223372036854775807", "998"] {
        forge(&h.stores, partition, sequence).await;
    }
    h.stores.hand_out(partition, "ledger", "ghost", 1000).await;
    for sequence in ["9223372036854775806", "9007199254740991", "999"] {
        forge(&h.stores, partition, sequence).await;
    }
    h.api.pay("r2", "ADA", "2").await;
    h.start_worker();
    h.api.until_is("r2", "applied").await;
    h.settled().await;
    let unreadable = "select count(*) from dead_letters where code = 'entry_unreadable'";
    assert_eq!(h.stores.count(unreadable).await, 5);
    assert_eq!(h.stores.count("select count(*) from sequence_jumps").await, 0);

    // Nor where the partition is brought back with such an entry as its last.
    for (last, lost, reference) in [
        ("99999999999999999999", ["XGROUP", "DESTROY", &stream, "ledger"], "r3"),
        ("9223372036854775807", ["SET", &h.stores.key(partition, "seq"), "0", "GET"], "r4"),
    ] {
        forge(&h.stores, partition, last).await;
        h.stores.tell(&lost).await;
        h.api.until_taken(&payment(reference, "ADA", "3")).await;
        h.api.until_is(reference, "applied").await;
    }
    h.api.until_settled().await;
    assert_eq!(h.stores.count(unreadable).await, 7);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "9.00");
}

#[tokio::test]
async fn a_forged_sequence_opens_no_loss_while_its_partition_is_closed() {
    const FORGED: &str = "4000000000000000";
    let mut h = Harness::gateway(&["--retention=1h"]).await.account("ADA", "1000").await;
    let partition = h.api.pay_into("first").await;
    let counter = h.stores.key(partition, "seq");
    // Closed for a change of the number of partitions, then because its state is lost.
    for (number, gate) in [(1, "resize"), (2, "lost")] {
        let waiting = h.api.pay(&format!("waits{number}"), "ADA", "1").await;
        let closed = format!("{gate}:{}", waiting["sequence"]);
        h.stores.tell(&["SET", &counter, &closed]).await;
        forge(&h.stores, partition, FORGED).await;
        h.start_worker();
        let letters = "select count(*) from dead_letters where sequence is null";
        h.stores.until(number, letters).await;
        if gate == "resize" {
            h.stores.tell(&["SET", &counter, &waiting["sequence"].to_string()]).await;
        }
        h.api.until_taken(&payment(&format!("r{number}"), "ADA", "2")).await;
        h.api.until_settled().await;
        h.stop_worker().await;
    }
    assert_eq!(h.stores.count(LOST).await, 0);
    let head: i64 = h.stores.ask(&["GET", &counter]).await;
    assert!(head < 2_000_010, "sequences went on behind a forged one: {head}");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "7.00");
}

#[tokio::test]
async fn a_copied_entry_opens_no_loss() {
    let mut h = Harness::gateway(&["--retention=1h"]).await.account("ADA", "1000").await;
    let partition = h.api.pay_into("r1").await;
    h.api.pay("r2", "ADA", "2").await;
    h.work().await;
    let stream = h.stores.key(partition, "stream");
    let last = ["XREVRANGE", &stream, "+", "-", "COUNT", "1"];
    let last: Vec<(String, Vec<(String, String)>)> = h.stores.ask(&last).await;
    let copy = async |stores: &Stores, sequence: &str| {
        let mut command = vec!["XADD", &stream, "*"];
        for (name, value) in &last[0].1 {
            command.extend([&**name, if name == "seq" { sequence } else { value }]);
        }
        stores.tell(&command).await;
    };
    for sequence in ["2", "1"] {
        copy(&h.stores, sequence).await;
    }
    h.settled().await;
    // Nor where the group is set back before they are taken.
    h.stop_worker().await;
    for sequence in ["2", "1"] {
        copy(&h.stores, sequence).await;
    }
    h.stores.rewind().await;
    h.work().await;
    assert_eq!(h.stores.count("select count(*) from duplicates").await, 0);
    assert_eq!(h.stores.count("select count(*) from sequence_jumps").await, 0);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "3.00");
}

#[tokio::test]
async fn what_no_gateway_wrote_is_not_redriven() {
    let mut h = Harness::gateway(&["--retention=1h"]).await.account("ADA", "1000").await;
    let partition = h.api.pay_into("r1").await;
    forge(&h.stores, partition, "2000").await;
    h.work().await;
    let operations = operations(&h.stores).await;
    let letters = operations.dead_letters(&LetterFilter::default()).await.unwrap();
    let [letter] = letters.rows.as_slice() else { panic!("{letters:?}") };
    let actions: Vec<_> = letter.actions.iter().map(|action| action.code).collect();
    assert_eq!(actions, ["discard"]);
    let refused = operations.redrive(letter.id, &signed("ada"), false).await.unwrap().unwrap_err();
    assert!(matches!(refused, Refusal::Impossible(_)), "{refused:?}");
    assert!(refused.sentence().contains("2000 was never given out: discard it"), "{refused:?}");
    h.settled().await;
    operations.discard(letter.id, &signed("ada")).await.unwrap().unwrap();
    assert_eq!(h.api.balance("ADA").await["total_paid"], "1.00");
    h.settled().await;
}
