//! Proves that asking for health, and reading much, costs nobody else anything: both
//! stores are asked once a second however many ask, and waiting for a connection of
//! ours is not called an outage of PostgreSQL.

use std::time::Instant;

use crate::prelude::*;

/// Who ask for health at the same time.
const ASKING: usize = 200;

/// How often this Redis was asked for its life.
async fn pings(stores: &Stores) -> u64 {
    let info: String = stores.ask(&["INFO", "commandstats"]).await;
    let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn stores_are_asked_for_their_health_once_a_second() {
    let (_redis, stores) = Stores::on_own_redis("redis-health").await;
    let h = Harness::gateway_on(stores, &[]).await.account("ADA", "10").await;

    let (before, began) = (pings(&h.stores).await, Instant::now());
    for path in ["/api/v1/health", "/readyz"] {
        let mut asking = JoinSet::new();
        for _ in 0..ASKING {
            let api = h.api.clone();
            asking.spawn(async move { api.get(path).await.status });
        }
        let statuses = in_time("health is told", asking.join_all()).await;
        assert!(statuses.iter().all(|status| *status == 200), "{path} {statuses:?}");
    }
    let (asked, seconds) = (pings(&h.stores).await - before, began.elapsed().as_secs());
    assert!(asked <= seconds + 2, "{asked} questions to Redis within {} s", seconds + 1);

    // One question to PostgreSQL waits, and leaves connections for reads.
    let held = lock(&h.stores, "sequence_jumps", "access exclusive").await;
    let mut asking = JoinSet::new();
    for _ in 0..ASKING {
        let api = h.api.clone();
        asking.spawn(async move { api.get("/api/v1/health").await.status });
    }
    let waiting = "select count(*) from pg_locks l join pg_stat_activity a using (pid)
         where not granted and relation = 'sequence_jumps'::regclass
             and a.datname = current_database()";
    until("PostgreSQL is asked", async || h.stores.count(waiting).await > 0).await;
    for _ in 0..20 {
        h.api.get("/api/v1/customers/ADA").await.is(200);
    }
    let statuses = in_time("health is told", asking.join_all()).await;
    assert!(statuses.iter().all(|status| *status == 200), "payments are taken: {statuses:?}");
    drop(held);
}

#[tokio::test]
async fn waiting_for_a_connection_of_ours_is_no_outage() {
    let h = Harness::gateway(&[]).await.account("ADA", "10").await;
    let held = lock(&h.stores, "processed_transactions", "access exclusive").await;
    // Four have the connections; more than open the circuit wait for one in vain.
    let mut reads = JoinSet::new();
    for n in 0..16 {
        let api = h.api.clone();
        reads.spawn(async move { api.get(&format!("/api/v1/payments/none-{n}")).await });
    }
    for _ in 0..12 {
        let reply = in_time("a read is answered", reads.join_next()).await.unwrap().unwrap();
        reply.is_problem(503, "gateway_busy");
    }
    let health = h.api.get("/api/v1/health").await;
    let postgresql = &health.json()["dependencies"]["postgresql"];
    assert_eq!(health.json()["status"], "ok", "{}", health.text);
    assert_eq!((&postgresql["status"], &postgresql["circuit"]), (&"up".into(), &"closed".into()));
    drop(held);
    while let Some(read) = in_time("a read is answered", reads.join_next()).await {
        read.unwrap().is_problem(404, "payment_not_found");
    }
    h.api.get("/api/v1/customers/ADA").await.is(200);
}
