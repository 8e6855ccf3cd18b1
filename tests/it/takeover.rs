//! Proves what holds when a promoted replica has less than ids and cached balances
//! say: its clock is behind that of the server before it, or it lacks what was removed
//! from the cache there.

use redis::aio::MultiplexedConnection;

use crate::{failover::tell, prelude::*};

const APART: [(&str, &str); 1] = [("PAYSTREAM_LANES", "1")];

/// Waits until a payment is found at all, and says what became of it.
async fn look_up(api: &Api, reference: &str) -> String {
    eventually("Redis can be asked", async || {
        let reply = api.get(&format!("/api/v1/payments/{reference}")).await;
        (reply.status != 503).then(|| match reply.status {
            200 => reply.json()["status"].as_str().unwrap().to_owned(),
            _ => reply.text,
        })
    })
    .await
}

/// The replica hears nothing more.
async fn part(pair: &Pair) {
    pair.in_step().await;
    tell(&pair.replica, &["REPLICAOF", "127.0.0.1", "1"]).await;
}

#[tokio::test]
async fn payments_are_found_and_settled_though_the_clock_of_a_promoted_server_is_behind() {
    let mut pair = Pair::on("behind", None).await;
    let gateway = Process::serve("gateway", &pair.stores, &[]).await;
    let worker = Process::serve("worker", &pair.stores, &APART).await;
    gateway.api.open_account("ADA", "1000").await;
    let partition = pay(&gateway.api, "r1").await["partition"].as_u64().unwrap();
    gateway.api.until_settled().await;
    part(&pair).await;
    // As if the clock of the primary were ahead of the replica's.
    let stream = pair.stores.key(partition, "stream");
    let ahead = "99999999999999-7";
    pair.stores.tell(&["XSETID", &stream, ahead]).await;
    let last = pay(&gateway.api, "r2").await["stream_id"].as_str().unwrap().to_owned();
    assert!(last.starts_with("99999999999999-"), "{last}");
    gateway.api.until_settled().await;
    worker.stop().await;
    pair.promote().await;
    pair.fail_over().await;
    let mut waiting = Vec::new();
    for n in 3..=30 {
        waiting.push(format!("r{n}"));
        let taken = pay(&gateway.api, &waiting[n - 3]).await;
        assert!(!taken["stream_id"].as_str().unwrap().starts_with("9999"), "{taken}");
    }
    for reference in ["r3", "r17", "r30"] {
        assert_eq!(look_up(&gateway.api, reference).await, "accepted", "{reference}");
    }
    assert!(look_up(&gateway.api, "never").await.contains("payment_not_found"));
    // A group that is created again begins before them.
    let mut redis = connect_to_redis(&pair.replica.url()).await;
    let destroy = ["XGROUP", "DESTROY", &stream, "ledger"];
    let _: i64 = ask(&mut redis, &destroy).await;
    let worker = Process::serve("worker", &pair.stores, &APART).await;
    for reference in &waiting {
        gateway.api.until_is(reference, "applied").await;
    }
    // From then on ids are above all that the ledger knows.
    until("ids are raised", async || {
        let info: Vec<redis::Value> = ask(&mut redis.clone(), &["XINFO", "STREAM", &stream]).await;
        let is_it = |value: &redis::Value| {
            matches!(value, redis::Value::BulkString(text) if *text == last.as_bytes())
        };
        info.iter().any(is_it) })
    .await;
    worker.stop().await;
    let taken = pay(&gateway.api, "above").await;
    assert!(taken["stream_id"].as_str().unwrap().starts_with("99999999999999-"), "{taken}");
    assert_eq!(look_up(&gateway.api, "above").await, "accepted");
    let _: i64 = ask(&mut redis, &destroy).await;
    let _worker = Process::serve("worker", &pair.stores, &APART).await;
    gateway.api.until_is("above", "applied").await;
    gateway.settled(&pair.stores).await;
    assert_eq!(pair.stores.count(LOST).await, 0);
    assert_eq!(gateway.api.balance("ADA").await["total_paid"], "31.00");
}

#[tokio::test]
async fn a_promoted_replica_that_lacks_a_removal_shows_no_old_balance() {
    let mut pair = Pair::on("cached", None).await;
    let process = Process::serve("all", &pair.stores, &[]).await.account("ADA", "1000").await;
    pay(&process.api, "r1").await;
    process.api.until_settled().await;
    let cached = async |redis: &mut MultiplexedConnection, keys: &[String]| -> Option<String> {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        if keys.is_empty() { None } else { ask(redis, &["GET", keys[0]]).await }
    };
    let paid = async |amount: &str| {
        let balance: Value = process.api.balance("ADA").await;
        assert_eq!(balance["total_paid"], amount, "{balance}");
    };
    eventually("a balance is cached", async || {
        paid("1.00").await;
        let keys = pair.stores.keys("*:balance:ADA").await;
        cached(&mut pair.stores.redis.clone(), &keys).await?.contains("1.00").then_some(())
    })
    .await;
    let keys = pair.stores.keys("*:balance:ADA").await;
    part(&pair).await;
    pay(&process.api, "r2").await;
    process.api.until_settled().await;
    pair.promote().await;
    pair.fail_over().await;
    let mut redis = connect_to_redis(&pair.replica.url()).await;
    assert!(cached(&mut redis, &keys).await.unwrap().contains("1.00"), "it lacks the removal");
    eventually("the new balance is cached", async || {
        paid("2.00").await;
        cached(&mut redis.clone(), &keys).await?.contains("\"2.00\"").then_some(())
    })
    .await;
    paid("2.00").await;
}
