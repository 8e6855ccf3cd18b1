//! Proves what is listed when a server answers with older data, or without the
//! memory of those before it: what the ledger had settled is not lost, whose
//! number was given out again is, and nothing that was never given out.

use paystream::dev::RedisServer;

use crate::{
    failover::{LOST, pay, tell},
    harness::{PARTITIONS, Stores, empty_directory, eventually},
    losses::copy,
    process::{Process, operate, run},
};

/// A Redis of its own, and stores on it.
async fn apart(name: &str) -> (RedisServer, Stores) {
    let redis = RedisServer::start(&empty_directory(name).await).await.unwrap();
    let stores = Stores::on(&redis.url(), None).await;
    (redis, stores)
}

/// Keeps a copy of the data of a Redis beside it.
async fn keep_copy(redis: &mut RedisServer) {
    redis.stop().await.unwrap();
    let data = redis.data_directory().to_owned();
    copy(&data, &data.with_file_name("copy")).await;
    redis.restart().await.unwrap();
}

async fn put_copy_back(redis: &mut RedisServer) {
    redis.stop().await.unwrap();
    let data = redis.data_directory().to_owned();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(data.with_file_name("copy"), &data).unwrap();
    redis.restart().await.unwrap();
}

#[tokio::test]
async fn what_was_settled_before_a_copy_was_put_back_is_not_lost() {
    let (mut redis, mut stores) = apart("redis-copy").await;
    let process = Process::serve("all", &stores, &[]).await;
    process.api.open_account("ADA", "1000").await;
    pay(&process.api, "r1").await;
    process.api.until_settled().await;
    keep_copy(&mut redis).await;
    for n in 2..=5 {
        pay(&process.api, &format!("r{n}")).await;
    }
    process.api.until_settled().await;
    put_copy_back(&mut redis).await;
    pay(&process.api, "r6").await;
    process.api.until_settled().await;
    assert_eq!(stores.count(LOST).await, 0);
    process.stop().await;
    // Another worker notes all of it again.
    let process = Process::serve("all", &stores, &[]).await;
    pay(&process.api, "r7").await;
    process.api.until_settled().await;
    assert_eq!(stores.count(LOST).await, 0);
    let accept = ["losses", "accept", "--reason", "restored", "--actor", "tester"];
    assert!(run(operate(&stores, &accept)).await.status.success());
    stores.connect_again().await;
    stores.audit().await;
    process.stop().await;
}

#[tokio::test]
async fn what_was_lost_is_listed_though_its_number_was_given_out_again_and_settled() {
    let (mut redis, stores) = apart("redis-reused").await;
    let a = Process::serve("gateway", &stores, &[]).await;
    let b = Process::serve("gateway", &stores, &[]).await;
    a.api.open_account("ADA", "1000").await;
    pay(&a.api, "r1").await;
    keep_copy(&mut redis).await;
    for n in 2..=4 {
        pay(&a.api, &format!("r{n}")).await;
    }
    put_copy_back(&mut redis).await;
    // This gateway knows nothing of what the other was given.
    assert_eq!(pay(&b.api, "again").await["sequence"], 2);
    let worker = Process::serve("all", &stores, &[]).await;
    worker.api.until_settled().await;
    pay(&a.api, "r5").await;
    let listed = "select count(*) from sequence_jumps where lost_first = 2 and lost_last = 4";
    eventually("all three are listed", async || (stores.count(listed).await == 1).then_some(()))
        .await;
    for process in [a, b, worker] {
        process.stop().await;
    }
}

/// The lineage of every partition is as it is after many restarts, or gone.
async fn forget_lineage(name: &str, many: bool) {
    let (mut redis, mut stores) = apart(name).await;
    let process = Process::serve("all", &stores, &[]).await;
    process.api.open_account("ADA", "1000").await;
    for n in 1..=3 {
        pay(&process.api, &format!("r{n}")).await;
    }
    process.api.until_settled().await;
    for partition in 0..u64::from(PARTITIONS) {
        let key = stores.key(partition, "lineage");
        if many {
            let mut counter = redis::cmd("GET");
            counter.arg(stores.key(partition, "seq"));
            let given: Option<i64> = counter.query_async(&mut stores.redis).await.unwrap();
            let given = given.unwrap_or(0);
            let line = |n| format!("{n:040} {given} {}\n", given + 1);
            let lines: String = (0..32).map(line).collect();
            tell(&redis, &["SET", &key, &lines]).await;
        } else {
            tell(&redis, &["DEL", &key]).await;
        }
    }
    for n in 4..=5 {
        redis.stop().await.unwrap();
        redis.restart().await.unwrap();
        pay(&process.api, &format!("r{n}")).await;
        process.api.until_settled().await;
    }
    assert_eq!(stores.count(LOST).await, 0, "{}", process.log());
    stores.connect_again().await;
    stores.audit().await;
    process.stop().await;
}

#[tokio::test]
async fn a_lineage_that_is_gone_is_no_loss() {
    forget_lineage("redis-no-lineage", false).await;
}

#[tokio::test]
async fn a_server_that_many_have_followed_is_no_loss() {
    forget_lineage("redis-many", true).await;
}
