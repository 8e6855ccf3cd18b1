//! Proves the walk of a payment: from the door to the balance, through
//! suspense, credit and the notices of one reference; and that the cache of
//! balances is never older than what was reported, whatever happens to it.

use std::time::Duration;

use paystream::{
    domain::{CustomerId, Fence},
    operations::{LetterFilter, Refusal},
    stream::{Balances, Lookup, Streams},
};
use serde_json::json;

use crate::{
    harness::{Harness, PARTITIONS, Stores, but, eventually, in_time, payment},
    mending::{operations, signed},
};

#[tokio::test]
async fn a_payment_walks_from_the_door_to_the_balance() {
    let mut h = Harness::gateway(&[]).await;
    h.api.open_account("ADA", "1000.00").await;
    h.api.pay("r1", "ADA", "400.50").await;
    assert_eq!(h.api.payment("r1").await["status"], "accepted");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "0.00");
    h.start_worker();
    h.settled().await;
    let found = h.api.payment("r1").await;
    for (field, wanted) in [
        ("status", json!("applied")),
        ("payment_status", json!("COMPLETE")),
        ("customer_id", json!("ADA")),
        ("transaction_amount", json!("400.50")),
        ("applied_amount", json!("400.50")),
        ("excess_amount", json!("0.00")),
        ("balance_after", json!("599.50")),
        ("account_version", json!(1)),
        ("transaction_date", json!("2025-11-07T13:54:16Z")),
    ] {
        assert_eq!(found[field], wanted, "{field}");
    }
    let balance = h.api.balance("ADA").await;
    for (field, wanted) in [
        ("customer_id", json!("ADA")),
        ("asset_value", json!("1000.00")),
        ("total_paid", json!("400.50")),
        ("outstanding_balance", json!("599.50")),
        ("credit", json!("0.00")),
        ("version", json!(1)),
    ] {
        assert_eq!(balance[field], wanted, "{field}");
    }
    h.stop().await;
}

#[tokio::test]
async fn what_is_paid_beyond_the_value_becomes_credit() {
    let h = Harness::start().await;
    h.api.open_account("ADA", "100.00").await;
    for (reference, amount) in [("r1", "60"), ("r2", "60"), ("r3", "5.25")] {
        h.api.pay(reference, "ADA", amount).await;
    }
    h.settled().await;
    let split = |found: serde_json::Value| {
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        (text("applied_amount"), text("excess_amount"), text("balance_after"))
    };
    let parts = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(split(h.api.payment("r1").await), parts("60.00", "0.00", "40.00"));
    assert_eq!(split(h.api.payment("r2").await), parts("40.00", "20.00", "0.00"));
    assert_eq!(split(h.api.payment("r3").await), parts("0.00", "5.25", "0.00"));
    let balance = h.api.balance("ADA").await;
    assert_eq!((&balance["total_paid"], &balance["credit"]), (&json!("100.00"), &json!("25.25")));
    assert_eq!(h.api.stats().await["customers"]["completed"], 1);
    h.stop().await;
}

#[tokio::test]
async fn notices_do_not_use_up_a_reference() {
    let h = Harness::start().await;
    h.api.open_account("ADA", "100.00").await;
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
    assert_eq!(
        (&found["status"], &found["payment_status"]),
        (&json!("applied"), &json!("COMPLETE"))
    );
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
    h.stop().await;
}

#[tokio::test]
async fn money_for_an_unknown_customer_waits_and_is_applied_in_order() {
    let h = Harness::start().await;
    for (reference, amount) in [("s1", "60"), ("s2", "30"), ("s3", "20")] {
        h.api.pay(reference, "LATE", amount).await;
    }
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
    h.stop().await;
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
        assert_eq!(
            (&balance["total_paid"], &balance["credit"]),
            (&json!("60.00"), &json!("40.00"))
        );
    }
    h.stop().await;
}

#[tokio::test]
async fn a_payment_reported_applied_is_in_every_balance_read_after_it() {
    let h = Harness::start().await;
    h.api.open_account("ADA", "1000000").await;
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
    eventually("a balance is cached", async || {
        h.api.balance("ADA").await;
        let value: Option<String> = redis::cmd("GET")
            .arg(&h.stores.keys("*:balance:ADA").await)
            .query_async(&mut h.stores.redis.clone())
            .await
            .unwrap_or_default();
        value.filter(|value| value.contains('{'))
    })
    .await;
    assert!(cached.len() <= 1, "{cached:?}");
    h.stop().await;
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
    h.stop().await;
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
    let partition = paystream::domain::partition_of(&ada, PARTITIONS);
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
    let h = Harness::start().await;
    h.api.open_account("ADA", "1000").await;
    for n in 1..=20 {
        let outcome = h.api.pay_and_wait(&payment(&format!("r{n}"), "ADA", "1")).await;
        assert_eq!(outcome.json()["status"], "applied");
        h.stores.delete_keys("*:balance:*").await;
        assert_eq!(h.api.balance("ADA").await["version"], n);
        h.stores.delete_keys("*:settling").await;
    }
    h.settled().await;
    h.stop().await;
}

#[tokio::test]
async fn cut_connections_and_forgotten_scripts_heal_by_themselves() {
    let h = Harness::start().await;
    h.api.seed(10).await;
    let redis = |words: &'static [&'static str]| {
        let mut connection = h.stores.redis.clone();
        async move {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]).exec_async(&mut connection).await.unwrap();
        }
    };
    for round in 0..6 {
        for n in 0..20 {
            let customer = format!("GIG{:05}", n % 10 + 1);
            h.api.pay(&format!("{round}-{n}"), &customer, "1").await;
        }
        redis(&["SCRIPT", "FLUSH"]).await;
        // Every worker's and gateway's backend, in the middle of its work.
        let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()";
        h.stores.count(kill).await;
    }
    h.settled().await;
    assert_eq!(h.api.stats().await["totals"]["applied"], 120);
    h.stop().await;
}

#[tokio::test]
async fn a_stopped_worker_gives_back_and_the_next_goes_on() {
    let mut h = Harness::start().await;
    h.api.seed(5).await;
    for round in 0..3 {
        for n in 0..10 {
            h.api.pay(&format!("{round}-{n}"), &format!("GIG{:05}", n % 5 + 1), "1").await;
        }
        let owned = "select count(*) from partition_owners where owner is not null";
        eventually("it owns all", async || (h.stores.count(owned).await == 8).then_some(())).await;
        h.stop_worker().await;
        assert_eq!(h.stores.count(owned).await, 0);
        assert_eq!(h.stores.count("select count(*) from workers").await, 0);
        h.start_worker();
    }
    h.settled().await;
    assert_eq!(h.api.stats().await["totals"]["applied"], 30);
    let epoch = "select coalesce(min(epoch), 0) from partition_owners where owner is not null";
    eventually("a fourth epoch", async || (h.stores.count(epoch).await == 4).then_some(())).await;
    h.stop().await;
}

#[tokio::test]
async fn an_entry_that_is_no_payment_becomes_a_dead_letter_and_the_rest_flows_on() {
    let mut h = Harness::gateway(&[]).await;
    h.api.open_account("ADA", "1000").await;
    let place = h.api.pay("before", "ADA", "1").await;
    let partition = place["partition"].as_u64().unwrap();
    let poison = json!({"transaction_reference": "poison", "customer_id": "ADA",
        "payment_status": "COMPLETE", "transaction_amount": "-1", "transaction_date": "x"});
    let entries = [
        ["v", "1", "seq", "2", "payment", &poison.to_string(), "received_at", "1"]
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect::<Vec<_>>(),
        vec![b"v".to_vec(), b"99".to_vec()],
        vec![b"\xff\xfe".to_vec(), b"\x00\xff".to_vec()],
    ];
    for entry in entries {
        let mut command = redis::cmd("XADD");
        command.arg(h.stores.key(partition, "stream")).arg("*").arg(entry);
        command.exec_async(&mut h.stores.redis.clone()).await.unwrap();
    }
    let mut command = redis::cmd("SET");
    command.arg(h.stores.key(partition, "seq")).arg(2);
    command.exec_async(&mut h.stores.redis.clone()).await.unwrap();
    h.api.pay("after", "ADA", "2").await;
    h.start_worker();
    h.settled().await;
    let found = h.api.payment("poison").await;
    assert_eq!((&found["status"], &found["sequence"]), (&json!("dead_lettered"), &json!(2)));
    assert!(found["reason"].as_str().unwrap().contains("transaction_amount"), "{found}");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "3.00");
    assert_eq!(h.api.stats().await["totals"]["dead_lettered"], 3);
    let mut command = redis::cmd("XLEN");
    command.arg(h.stores.key(partition, "dead"));
    let notices: i64 = command.query_async(&mut h.stores.redis.clone()).await.unwrap();
    assert_eq!(notices, 3);
    h.stop().await;
}

/// An entry that no gateway wrote.
async fn forge(stores: &Stores, partition: u64, sequence: &str) {
    let forged = json!({"transaction_reference": format!("forged-{sequence}"),
        "customer_id": "ADA", "payment_status": "COMPLETE", "transaction_amount": "5.00",
        "transaction_date": "2025-11-07T13:54:16Z"});
    let mut command = redis::cmd("XADD");
    command.arg(stores.key(partition, "stream")).arg(&["*", "v", "1", "seq", sequence]);
    command.arg(&["payment", &forged.to_string(), "received_at", "1762523656123"]);
    command.exec_async(&mut stores.redis.clone()).await.unwrap();
}

#[tokio::test]
async fn a_sequence_that_was_never_given_out_stops_nobody_and_opens_no_loss() {
    let mut h = Harness::gateway(&["--retention=1h"]).await;
    h.api.open_account("ADA", "1000").await;
    let partition = h.api.pay("r1", "ADA", "1").await["partition"].as_u64().unwrap();
    let stream = h.stores.key(partition, "stream");
    let connection = h.stores.redis.clone();
    let redis = async |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).exec_async(&mut connection.clone()).await.unwrap();
    };
    // Some were handed out before, the others are new.
    for sequence in ["9223372036854775807", "998"] {
        forge(&h.stores, partition, sequence).await;
    }
    redis(&["XREADGROUP", "GROUP", "ledger", "ghost", "STREAMS", &stream, ">"]).await;
    for sequence in ["9223372036854775806", "9007199254740991", "999"] {
        forge(&h.stores, partition, sequence).await;
    }
    h.api.pay("r2", "ADA", "2").await;
    h.start_worker();
    let applied = async |reference: &str| {
        eventually("a good payment is applied", async || {
            (h.api.payment(reference).await["status"] == "applied").then_some(())
        })
        .await;
    };
    applied("r2").await;
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
        redis(&lost).await;
        eventually("it takes payments again", async || {
            let reply = h.api.post_payment(&payment(reference, "ADA", "3")).await;
            (reply.status == 202).then_some(())
        })
        .await;
        applied(reference).await;
    }
    h.api.until_settled().await;
    assert_eq!(h.stores.count(unreadable).await, 7);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "9.00");
    h.stop().await;
}

#[tokio::test]
async fn a_forged_sequence_opens_no_loss_while_its_partition_is_closed() {
    const FORGED: &str = "4000000000000000";
    let mut h = Harness::gateway(&["--retention=1h"]).await;
    h.api.open_account("ADA", "1000").await;
    let partition = h.api.pay("first", "ADA", "1").await["partition"].as_u64().unwrap();
    let counter = h.stores.key(partition, "seq");
    let connection = h.stores.redis.clone();
    let count = async |value: &str| {
        let mut command = redis::cmd("SET");
        command.arg(&counter).arg(value).exec_async(&mut connection.clone()).await.unwrap();
    };
    // Closed for a change of the number of partitions, then because its state is lost.
    for (number, gate) in [(1, "resize"), (2, "lost")] {
        let waiting = h.api.pay(&format!("waits{number}"), "ADA", "1").await;
        count(&format!("{gate}:{}", waiting["sequence"])).await;
        forge(&h.stores, partition, FORGED).await;
        h.start_worker();
        let letters = "select count(*) from dead_letters where sequence is null";
        eventually("it is a dead letter", async || {
            (h.stores.count(letters).await == number).then_some(())
        })
        .await;
        if gate == "resize" {
            count(&waiting["sequence"].to_string()).await;
        }
        eventually("it takes payments again", async || {
            let reply = h.api.post_payment(&payment(&format!("r{number}"), "ADA", "2")).await;
            (reply.status == 202).then_some(())
        })
        .await;
        h.api.until_settled().await;
        h.stop_worker().await;
    }
    let lost = "select count(*) from sequence_jumps where lost_first is not null";
    assert_eq!(h.stores.count(lost).await, 0);
    let mut get = redis::cmd("GET");
    let head: i64 = get.arg(&counter).query_async(&mut h.stores.redis.clone()).await.unwrap();
    assert!(head < 2_000_010, "sequences went on behind a forged one: {head}");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "7.00");
    h.stop().await;
}

#[tokio::test]
async fn a_copied_entry_opens_no_loss() {
    let mut h = Harness::gateway(&["--retention=1h"]).await;
    h.api.open_account("ADA", "1000").await;
    let partition = h.api.pay("r1", "ADA", "1").await["partition"].as_u64().unwrap();
    h.api.pay("r2", "ADA", "2").await;
    h.start_worker();
    h.settled().await;
    let stream = h.stores.key(partition, "stream");
    let connection = h.stores.redis.clone();
    let (from, to) = (&stream, &mut connection.clone());
    let mut last = redis::cmd("XREVRANGE");
    last.arg(from).arg("+").arg("-").arg("COUNT").arg(1);
    let last: Vec<(String, Vec<(String, String)>)> = last.query_async(to).await.unwrap();
    let copy = async |sequence: &str| {
        let mut command = redis::cmd("XADD");
        command.arg(&stream).arg("*");
        for (name, value) in &last[0].1 {
            command.arg(name).arg(if name == "seq" { sequence } else { value });
        }
        command.exec_async(&mut connection.clone()).await.unwrap();
    };
    for sequence in ["2", "1"] {
        copy(sequence).await;
    }
    h.settled().await;
    // Nor where the group is set back before they are taken.
    h.stop_worker().await;
    for sequence in ["2", "1"] {
        copy(sequence).await;
    }
    let mut command = redis::cmd("XGROUP");
    command.arg("SETID").arg(&stream).arg("ledger").arg("0");
    command.exec_async(&mut connection.clone()).await.unwrap();
    h.start_worker();
    h.settled().await;
    assert_eq!(h.stores.count("select count(*) from duplicates").await, 0);
    assert_eq!(h.stores.count("select count(*) from sequence_jumps").await, 0);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "3.00");
    h.stop().await;
}

#[tokio::test]
async fn what_no_gateway_wrote_is_not_redriven() {
    let mut h = Harness::gateway(&["--retention=1h"]).await;
    h.api.open_account("ADA", "1000").await;
    let partition = h.api.pay("r1", "ADA", "1").await["partition"].as_u64().unwrap();
    forge(&h.stores, partition, "2000").await;
    h.start_worker();
    h.settled().await;
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
    h.stop().await;
}
