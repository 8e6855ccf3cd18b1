//! Proves what holds when the network fails between a process and its stores:
//! cut, half-open, or replies lost. Whoever cannot serve its partitions gives
//! them up, takes its share again when the way is open, and nothing is lost or
//! doubled.

use crate::prelude::*;

/// A worker beside another loses its way to Redis or PostgreSQL, and finds it
/// again.
async fn lose(store: &str, way: Way) {
    let (stores, gateway) = with_gateway().await;
    let url = if store == "PAYSTREAM_REDIS_URL" { &stores.redis_url } else { &stores.database_url };
    let proxy = Proxy::before(url).await;
    let mut lonely =
        worker(&stores, "lonely", &[&SHORT[..], &[(store, &proxy.url)]].concat()).await;
    let _other = worker(&stores, "other", &SHORT).await;
    until_spread(&stores, &["lonely", "other"]).await;
    let mut load = Load::warm(&gateway.api, "lose").await;
    proxy.set(way);
    until_spread(&stores, &["other"]).await;
    load.goes_on().await;
    proxy.set(Way::Open);
    until_spread(&stores, &["lonely", "other"]).await;
    verify_after(&stores, &gateway.api, load).await;
    lonely.must_live();
}

cases! { lose:
    a_worker_cut_off_from_the_ledger_gives_its_partitions_up("PAYSTREAM_DATABASE_URL", Way::Cut);
    a_worker_whose_ledger_falls_dumb_gives_its_partitions_up("PAYSTREAM_DATABASE_URL", Way::Dumb);
    a_worker_cut_off_from_redis_gives_its_partitions_up("PAYSTREAM_REDIS_URL", Way::Cut);
    a_worker_whose_redis_falls_dumb_gives_its_partitions_up("PAYSTREAM_REDIS_URL", Way::Dumb);
}

/// Whatever a start has read already, it waits for a store that goes away behind that.
#[tokio::test]
async fn a_start_outlasts_a_ledger_that_breaks_behind_its_first_answers() {
    let stores = Stores::new().await;
    let mut proxy = Proxy::before(&stores.database_url).await;
    // What a gateway asks last: how far each partition is.
    proxy.set(Way::LosesReplyTo("greatest(last_sequence, head_sequence)"));
    let url = proxy.url.clone();
    let settings = [("PAYSTREAM_DATABASE_URL", url.as_str())];
    let gateway = Process::serve("gateway", &stores, &settings);
    let mending = async {
        proxy.has_lost(2).await;
        proxy.set(Way::Open);
    };
    let (gateway, ()) = tokio::join!(gateway, mending);
    gateway.api.open_account("ADA", "1000").await;
    gateway.api.pay("r1", "ADA", "1").await;
}

/// A connection that falls dumb while others of its worker go on must not hold up a lane.
#[tokio::test]
async fn no_question_of_a_lane_waits_for_a_silent_ledger() {
    let stores = Stores::new().await;
    let proxy = Proxy::before(&stores.database_url).await;
    let writer = Ledger::new(&proxy.url).unwrap().writer("tester", Duration::from_millis(200));
    let mut lanes = Vec::new();
    for _ in 0..7 {
        lanes.push(writer.lane().await.unwrap());
    }
    let [a, b, c, d, e, f, g] = lanes.as_mut_slice() else { unreachable!() };
    let fence = Fence { partition: 0, epoch: 1 };
    let (first, last) = (StreamId::default(), StreamId::default());
    let attempt = ledger::Attempt { first, last, attempts: 1, error: None };
    proxy.set(Way::Dumb);
    let answers = async {
        tokio::join!(
            async { a.attempt(0).await.err() },
            async { b.note_attempt(fence, &attempt).await.err() },
            async { c.end_attempt(fence).await.err() },
            async { d.cursors(&[fence]).await.err() },
            async { e.note_heads(&[(fence, 1)]).await.err() },
            async { f.note_missing(fence, 1).await.err() },
            async { g.recent_losses(&[0]).await.err() },
        )
    };
    let (a, b, c, d, e, f, g) = in_time("each is given up", answers).await;
    for error in [a, b, c, d, e, f, g] {
        assert!(error.as_ref().is_some_and(ledger::Error::is_outage), "{error:?}");
    }
}

#[tokio::test]
async fn when_all_workers_lose_redis_nothing_moves() {
    let (stores, gateway) = with_gateway().await;
    let proxy = Proxy::before(&stores.redis_url).await;
    let settings = [&SHORT[..], &[("PAYSTREAM_REDIS_URL", &proxy.url)]].concat();
    let a = worker(&stores, "a", &settings).await;
    let b = worker(&stores, "b", &settings).await;
    until_spread(&stores, &["a", "b"]).await;
    let load = Load::warm(&gateway.api, "all").await;
    let before = owners(&stores).await;
    proxy.set(Way::Cut);
    for worker in [&a, &b] {
        worker.until_logged("redis does not answer").await;
    }
    // Both have said so in the registry.
    stores.until(2, "select count(*) from workers where leaving").await;
    proxy.set(Way::Open);
    for worker in [&a, &b] {
        worker.until_logged("redis answers again").await;
    }
    verify_after(&stores, &gateway.api, load).await;
    assert_eq!(owners(&stores).await, before);
}

#[tokio::test]
async fn commits_whose_replies_are_lost_have_one_effect() {
    let (stores, gateway) = with_gateway().await;
    let mut proxy = Proxy::before(&stores.database_url).await;
    let worker = worker(&stores, "a", &[("PAYSTREAM_DATABASE_URL", &proxy.url)]).await;
    let load = Load::warm(&gateway.api, "commit").await;
    proxy.set(Way::LosesReplyTo("COMMIT"));
    proxy.has_lost(3).await;
    proxy.set(Way::Open);
    verify_after(&stores, &gateway.api, load).await;
    worker.until_logged("reclaimed pending entries").await;
}

#[tokio::test]
async fn an_append_whose_reply_is_lost_has_one_effect_and_is_accepted_once() {
    let stores = Stores::new().await;
    let mut proxy = Proxy::before(&stores.redis_url).await;
    let process = Process::serve("all", &stores, &[("PAYSTREAM_REDIS_URL", &proxy.url)]).await;
    process.api.open_account("ADA", "1000").await;
    proxy.set(Way::LosesReplyTo("lost-reply"));
    let paying = process.api.pay("lost-reply", "ADA", "5");
    let losing = async {
        proxy.has_lost(1).await;
        proxy.set(Way::Open);
    };
    let (taken, ()) = tokio::join!(paying, losing);
    assert_eq!(taken["sequence"], 1);
    verify(&stores, &process.api, &[]).await;
    assert_eq!(process.api.balance("ADA").await["total_paid"], "5.00");
    assert_eq!(stores.count("select sum(last_sequence)::bigint from partition_owners").await, 1);
}

#[tokio::test]
async fn workers_share_and_drain_a_full_redis() {
    let (_redis, stores) = Stores::on_own_redis("redis-full-shared").await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    gateway.api.seed(CUSTOMERS).await;
    let load = Load::warm(&gateway.api, "full").await;
    let loads = [load.finish().await];
    let limit = async |bytes| stores.tell(&["CONFIG", "SET", "maxmemory", bytes]).await;
    limit("1").await;
    let more = payment("more", "GIG00001", "1");
    gateway.api.post_payment(&more).await.is_problem(503, "backlog_full");
    // Nothing is settled before both are there.
    let held = lock(&stores, "processed_transactions", "exclusive").await;
    let _a = worker(&stores, "a", &SHORT).await;
    until_spread(&stores, &["a"]).await;
    let _b = worker(&stores, "b", &SHORT).await;
    until_spread(&stores, &["a", "b"]).await;
    drop(held);
    verify(&stores, &gateway.api, &loads).await;
    limit("0").await;
    gateway.api.pay("more", "GIG00001", "1").await;
    verify(&stores, &gateway.api, &loads).await;
}
