//! Proves what is listed when a server answers with older data, or without the
//! memory of those before it: what the ledger had settled is not lost, whose
//! number was given out again is, and nothing that was never given out.

use paystream::dev::RedisServer;

use crate::{
    failover::{LOST, pay, tell},
    harness::{PARTITIONS, Stores, empty_directory},
    process::Process,
};

/// A Redis of its own, and stores on it.
async fn apart(name: &str) -> (RedisServer, Stores) {
    let redis = RedisServer::start(&empty_directory(name).await).await.unwrap();
    let stores = Stores::on(&redis.url(), None).await;
    (redis, stores)
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
