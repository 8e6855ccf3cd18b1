//! Proves that what waits is counted from our own sequences: after a rewrite of
//! Redis's file and a restart, and on a promoted replica, the `lag` of Redis is
//! wrong for ever, and nothing of ours believes it. And that neither the backlog
//! nor trimming depends on the clock of Redis.

use std::time::Instant;

use paystream::stream::GroupPosition;

use crate::prelude::*;

/// Longer than an idle lane needs to look around, on any machine.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// Each take is full, so that a lane that believes in a lag would not rest.
const WORKER: [(&str, &str); 3] =
    [("PAYSTREAM_STALL_LIMIT", "10s"), ("PAYSTREAM_LANES", "1"), ("PAYSTREAM_BATCH_MAX", "1")];

/// A line of `INFO`.
async fn info(stores: &Stores, section: &str, name: &str) -> String {
    let text: String = stores.ask(&["INFO", section]).await;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
}

/// The `lag` that Redis itself reports, all partitions together.
async fn lag_of_redis(stores: &Stores) -> i64 {
    let mut sum = 0;
    for key in stores.keys("*:stream").await {
        type Groups = Vec<HashMap<String, redis::Value>>;
        for group in stores.ask::<Groups>(&["XINFO", "GROUPS", &key]).await {
            if let redis::Value::Int(lag) = group["lag"] {
                sum += lag;
            }
        }
    }
    sum
}

/// Everything that tells what waits says that nothing does, the worker lives on
/// and rests, and the number of partitions can be changed.
/// Answers the lag that Redis itself said there was.
async fn nothing_waits(stores: &Stores, gateway: &Process, worker: &Process) -> i64 {
    gateway.api.pay_seeded("after", 40, 20).await;
    gateway.api.until_settled().await;
    let said = lag_of_redis(stores).await;
    assert_eq!(gateway.api.stats().await["backlog"], json!({"lag": 0, "pending": 0}));
    for (command, list) in [("partitions", "partitions"), ("groups", "groups")] {
        let list_groups = (command == "groups").then_some("list");
        let arguments: Vec<&str> =
            [command].into_iter().chain(list_groups).chain(["--json"]).collect();
        let shown: Value = serde_json::from_str(&stores.succeed(&arguments).await).unwrap();
        let rows = shown[list].as_array().unwrap();
        assert!(!rows.is_empty() && rows.iter().all(|row| row["lag"] == 0), "{shown}");
    }
    let shown = stores.said(&["doctor"]).await;
    let mut findings = shown["findings"].as_array().unwrap().iter();
    let backlog = findings.find(|one| one["code"] == "backlog_deep").unwrap();
    assert_eq!(backlog["sentence"], "0 entries wait");

    until("the lane waits for an entry", async || {
        info(stores, "clients", "blocked_clients").await == "1"
    })
    .await;
    let start = Instant::now();
    until("the stall limit is over", async || {
        worker.api.get("/livez").await.is(200);
        start.elapsed() > STALL_LIMIT + Duration::from_secs(1)
    })
    .await;
    stores.succeed(&resize(&["--partitions", "4", "--drain-timeout", "20s"])).await;
    served(gateway, 4).await;
    assert_eq!(stores.keys("*:stream").await.len(), 4, "the old streams are removed");
    said
}

#[tokio::test]
async fn nothing_waits_after_a_rewrite_and_a_restart_of_redis() {
    let (mut redis, mut stores) = Stores::on_own_redis("lag-rewrite").await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    let worker = Process::serve("worker", &stores, &WORKER).await;
    gateway.api.seed(20).await;
    gateway.api.pay_seeded("one", 40, 20).await;
    gateway.api.until_settled().await;
    stores.tell(&["BGREWRITEAOF"]).await;
    until("the file is written anew", async || {
        let under_way = info(&stores, "persistence", "aof_rewrite_in_progress").await;
        let scheduled = info(&stores, "persistence", "aof_rewrite_scheduled").await;
        under_way == "0" && scheduled == "0"
    })
    .await;
    gateway.api.pay_seeded("two", 40, 20).await;
    gateway.api.until_settled().await;
    redis.restart().await.unwrap();
    stores.connect_again().await;
    gateway.api.until_ready().await;
    let said = nothing_waits(&stores, &gateway, &worker).await;
    assert_ne!(said, 0, "this Redis does not report a false lag");
}

#[tokio::test]
async fn nothing_waits_on_a_promoted_replica() {
    let redis = own_redis("lag-primary").await;
    let replica = own_redis("lag-replica").await;
    let mut stores = Stores::on(&redis.url(), None).await;
    let mut to_replica = connect_to_redis(&replica.url()).await;
    let port = redis.port().to_string();
    ask::<redis::Value>(&mut to_replica, &["REPLICAOF", "127.0.0.1", &port]).await;
    // It follows from here on, and is told of takes without their count.
    until("the replica follows", async || stores.ask::<i64>(&["WAIT", "1", "100"]).await == 1)
        .await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    let worker = Process::serve("worker", &stores, &WORKER).await;
    gateway.api.seed(20).await;
    gateway.api.pay_seeded("one", 40, 20).await;
    gateway.api.until_settled().await;
    worker.stop().await;
    gateway.stop().await;
    stores.tell(&["SET", "last", "1"]).await;
    until("the replica has everything", async || {
        ask::<i64>(&mut to_replica.clone(), &["EXISTS", "last"]).await == 1
    })
    .await;
    ask::<redis::Value>(&mut to_replica, &["REPLICAOF", "NO", "ONE"]).await;
    drop(redis);
    stores.redis_url = replica.url();
    stores.connect_again().await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    // It does not say what waits until somebody has read to the end.
    gateway.api.pay_seeded("waiting", 40, 20).await;
    assert_eq!(lag_of_redis(&stores).await, 0, "this Redis knows its lag");
    assert_eq!(gateway.api.stats().await["backlog"], json!({"lag": 40, "pending": 0}));
    let worker = Process::serve("worker", &stores, &WORKER).await;
    nothing_waits(&stores, &gateway, &worker).await;
}

#[tokio::test]
async fn what_waits_is_counted_from_sequences() {
    let stores = Stores::new().await;
    let stream = stores.key(0, "stream");
    let config = stores.config(&[]);
    let url = config.store.redis_url().unwrap();
    let streams = Streams::new(&url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    let upkeep = streams.upkeep().await.unwrap();
    let ours = async || -> GroupPosition {
        upkeep.standings().await.unwrap().into_iter().find(|one| one.partition == 0).unwrap()
    };
    let add = async |id: &str, sequence: &str| {
        stores.tell(&["XADD", &stream, id, "seq", sequence]).await;
    };
    let stand_at = async |id: &str| {
        stores.tell(&["XGROUP", "SETID", &stream, "ledger", id]).await;
        ours().await.lag
    };
    assert_eq!(ours().await.lag, 0, "the stream is empty");
    for sequence in 1..=5 {
        add(&format!("{sequence}-0"), &sequence.to_string()).await;
    }
    for (id, lag) in [("0", 5), ("1-0", 4), ("4-0", 1), ("5-0", 0), ("9-0", 0)] {
        assert_eq!(stand_at(id).await, lag, "from {id}");
    }
    // After a loss, sequences go on far behind it: nothing waits in between.
    for number in 6..=8 {
        add(&format!("{number}-0"), &(1_000_000 + number).to_string()).await;
    }
    for (id, lag) in [("0", 8), ("2-0", 6), ("5-0", 3), ("6-0", 2), ("8-0", 0)] {
        assert_eq!(stand_at(id).await, lag, "from {id}, with a jump");
    }
    // And once more: it waits between two jumps.
    for number in 1..=2 {
        add(&format!("8-{number}"), &(2_000_000 + number).to_string()).await;
    }
    for (id, lag) in [("0", 10), ("2-0", 8), ("6-0", 4), ("8-0", 2), ("8-2", 0)] {
        assert_eq!(stand_at(id).await, lag, "from {id}, with two jumps");
    }
    // What settled entries are gone makes no difference, nor what is no payment.
    stores.tell(&["XTRIM", &stream, "MINID", "=", "4-0"]).await;
    stores.tell(&["XADD", &stream, "9-0", "foreign", "1"]).await;
    for (id, lag) in [("4-0", 7), ("5-0", 6), ("9-0", 0)] {
        assert_eq!(stand_at(id).await, lag, "from {id}, trimmed and with a foreign entry");
    }
    stores.tell(&["XTRIM", &stream, "MAXLEN", "0"]).await;
    assert_eq!(stand_at("0").await, 0, "the stream is empty again");
}

async fn length(stores: &Stores, partition: u64) -> i64 {
    stores.ask(&["XLEN", &stores.key(partition, "stream")]).await
}

#[tokio::test]
async fn trimming_goes_on_after_the_clock_of_redis_stepped() {
    let h = Harness::with(&["--retention=0s"]).await.account("ADA", "1000").await;
    let at = h.api.pay_into("before").await;
    h.settled().await;
    // As if its clock had gone forward, and back.
    h.stores.tell(&["XSETID", &h.stores.key(at, "stream"), "99999999999999-0"]).await;
    h.api.pay_each("r", 0..5).await;
    h.settled().await;
    until("what is settled is trimmed", async || length(&h.stores, at).await == 1).await;
}

#[tokio::test]
async fn a_step_of_the_clock_of_redis_takes_nothing_away() {
    const KEEPS: Duration = Duration::from_hours(1);
    let h = Harness::with(&["--retention=1h"]).await.account("ADA", "1000").await;
    let mut at = 0;
    for number in 0..3 {
        at = h.api.pay(&format!("r{number}"), "ADA", "1").await["partition"].as_u64().unwrap();
    }
    h.settled().await;
    let stream = h.stores.key(at, "stream");
    let streams = Streams::new(&h.stores.redis_url, &h.stores.key_prefix, PARTITIONS, 1).unwrap();
    let upkeep = streams.upkeep().await.unwrap();
    let before: Vec<_> = upkeep.trim_all(KEEPS, &[], &BTreeMap::new(), &[]).await.unwrap();
    let before: Vec<_> = before.into_iter().map(|trim| trim.unwrap().newest).collect();
    h.stores.tell(&["XSETID", &stream, "99999999999998-0"]).await;
    let reached =
        BTreeMap::from([(u16::try_from(at).unwrap(), "99999999999998-0".parse().unwrap())]);
    let removed = async |aged: &[StreamId]| {
        let trims = upkeep.trim_all(KEEPS, aged, &reached, &[]).await.unwrap();
        trims.into_iter().map(|trim| trim.unwrap().removed).sum::<i64>()
    };
    assert_eq!(removed(&[]).await, 0, "they are old by the clock of Redis alone");
    assert_eq!(removed(&before).await, 2, "they are old by the worker's time, too");
}

#[tokio::test]
async fn the_backlog_is_what_is_not_settled() {
    let mut h = Harness::with(&["--backlog-max=3", "--retention=1h"]).await;
    h.api.open_account("ADA", "1000").await;
    let at = h.api.pay_into("first").await;
    for number in 0..8 {
        h.settled().await;
        h.api.pay(&format!("r{number}"), "ADA", "1").await;
    }
    h.settled().await;
    assert_eq!(length(&h.stores, at).await, 9, "settled entries stay");
    h.stop_worker().await;
    h.api.pay_each("w", 0..3).await;
    let api = h.api.clone();
    let refused = async || {
        api.post_payment(&payment("over", "ADA", "1")).await.is_problem(503, "backlog_full");
    };
    refused().await;
    // A replay needs no place, and each item of a batch is told that there is none.
    api.post_payment(&payment("w1", "ADA", "1")).await.is(200);
    let batch = json!([payment("over", "ADA", "1")]);
    let batch = api.post("/api/v1/payments/batch", &batch).await.json();
    assert_eq!(batch["results"][0]["code"], "backlog_full", "{batch}");
    // Taken and not acknowledged is not settled either.
    h.stores.hand_out(at, "ledger", "gone", 1000).await;
    refused().await;
    // Settled entries are no reason to refuse any, unless another group keeps them,
    h.start_worker();
    for number in 13..40 {
        h.settled().await;
        if number == 18 {
            // The clock of Redis was in 2100: ids stand still in one millisecond.
            let stream = h.stores.key(at, "stream");
            h.stores.tell(&["XSETID", &stream, "4102444800000-0"]).await;
        }
        let sent = payment(&format!("s{number}"), "ADA", "1");
        until("there is room", async || api.post_payment(&sent).await.status == 202).await;
    }
    h.settled().await;
    assert!((9..24).contains(&length(&h.stores, at).await), "what is young stays");
    // and those are bounded too.
    let stream = h.stores.key(at, "stream");
    h.stores.tell(&["XGROUP", "CREATE", &stream, "other", "0"]).await;
    for number in 40.. {
        h.settled().await;
        let reply = api.post_payment(&payment(&format!("k{number}"), "ADA", "1")).await;
        if reply.status != 202 {
            reply.is_problem(503, "backlog_full");
            break;
        }
    }
    assert_eq!(length(&h.stores, at).await, 24);
}
