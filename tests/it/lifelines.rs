//! Proves that a worker's death is noticed by the end of its connection, long before its lease
//! ends, and that whoever only loses a connection keeps its partitions.

use crate::prelude::*;

/// Longer than any test.
const LEASE: [(&str, &str); 1] = [("PAYSTREAM_LEASE", "1h")];

/// Subscriptions of workers.
async fn subscribers(stores: &Stores) -> usize {
    let list: String = stores.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    list.lines().count()
}

/// Partitions that were taken over, not handed over.
const TAKEN_OVER: &str = "select count(*) from partition_moves where previous is not null";

/// Two workers that watch each other. Nothing shows from when on they do, so a third is killed: once
/// its partitions have moved, they have looked at all who are registered.
async fn two(stores: &Stores) -> [Process; 2] {
    let (a, b, c) = tokio::join!(
        worker(stores, "a", &LEASE),
        worker(stores, "b", &LEASE),
        worker(stores, "c", &LEASE)
    );
    until_spread(stores, &["a", "b", "c"]).await;
    c.kill().await;
    until_spread(stores, &["a", "b"]).await;
    [a, b]
}

#[tokio::test]
async fn a_killed_worker_is_replaced_long_before_its_lease_ends() {
    let (stores, gateway) = with_gateway().await;
    let mut load = Load::start(&gateway.api, "dies");
    let [a, b] = two(&stores).await;
    load.goes_on().await;
    a.kill().await;
    until_spread(&stores, &["b"]).await;
    let silent = "select count(*) from workers
         where worker_id = 'a' and beat_at < clock_timestamp() - lease_ms * interval '1 ms'";
    assert_eq!(stores.count(silent).await, 1, "it counts as silent");
    verify_after(&stores, &gateway.api, load).await;
    b.stop().await;
}

#[tokio::test]
async fn a_worker_that_only_loses_its_connections_keeps_its_partitions() {
    let (mut redis, mut stores) = Stores::on_own_redis("lifelines").await;
    let [a, b] = two(&stores).await;
    let before = stores.count(TAKEN_OVER).await;
    // Each comes back by itself.
    let _: i64 = stores.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    until("they are subscribed again", async || subscribers(&stores).await == 2).await;
    redis.kill().await.unwrap();
    redis.restart().await.unwrap();
    stores.connect_again().await;
    until("they are subscribed again", async || subscribers(&stores).await == 2).await;
    // Two looks at the registry later than any mistake, and they watch each other again.
    let c = worker(&stores, "c", &LEASE).await;
    until_spread(&stores, &["a", "b", "c"]).await;
    assert_eq!(stores.count(TAKEN_OVER).await, before);
    a.kill().await;
    until_spread(&stores, &["b", "c"]).await;
    assert!(stores.count(TAKEN_OVER).await > before);
    tokio::join!(b.stop(), c.stop());
}
