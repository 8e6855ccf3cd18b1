//! Proves that payments follow the master that Sentinels name: one that was killed, one that is
//! cut off from them and still answers us, and that what it took with it is listed exactly.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    failover::{ask, pay, pay_each, taken_anew, tell},
    harness::EVERYTHING,
    prelude::*,
    process::signal,
};

const NAME: &str = "pay";

/// A master, two replicas of it, and three Sentinels.
pub struct Group {
    pub servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    pub stores: Stores,
}

impl Group {
    pub async fn start(name: &str) -> Self {
        let directory = async |role: &str, number: usize| {
            empty_directory(&format!("redis-{name}-{role}-{number}")).await
        };
        let mut servers = Vec::new();
        for number in 0..3 {
            servers.push(redis_in(&directory("server", number).await).await);
        }
        let port = servers[0].port();
        for replica in &servers[1..] {
            tell(replica, &["REPLICAOF", "127.0.0.1", &port.to_string()]).await;
        }
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let directory = directory("sentinel", number).await;
            let sentinel = RedisServer::sentinel(&directory, NAME, port, &[]).await;
            sentinels.push(sentinel.expect("a Sentinel starts"));
        }
        let mut stores = Stores::on(&servers[0].url(), None).await;
        let hosts: Vec<String> =
            sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
        let password = servers[0].password();
        stores.redis_url = format!(
            "redis-sentinel://{EVERYTHING}:{password}@{}/{NAME}?sentinel_password={password}",
            hosts.join(",")
        );
        let group = Self { servers, sentinels, stores };
        for sentinel in &group.sentinels {
            until("a Sentinel knows the others", async || {
                let known = master(sentinel).await;
                known["num-slaves"] == "2" && known["num-other-sentinels"] == "2"
            })
            .await;
        }
        group
    }

    /// The replicas have no more of what the master is told, and hold still.
    async fn hold_replicas(&self) {
        for replica in &self.servers[1..] {
            signal(replica.pid(), "STOP").await;
        }
        tell(&self.servers[0], &["CLIENT", "KILL", "TYPE", "replica"]).await;
    }

    async fn resume_replicas(&self) {
        for replica in &self.servers[1..] {
            signal(replica.pid(), "CONT").await;
        }
    }

    /// Leads the test itself to the server that has been promoted.
    pub async fn follow(&mut self) {
        let port: u16 = eventually("another is the master", async || {
            let port = master(&self.sentinels[0]).await.remove("port")?.parse().ok()?;
            (port != self.servers[0].port()).then_some(port)
        })
        .await;
        let at = self.servers.iter().position(|server| server.port() == port).unwrap();
        self.servers.swap(0, at);
        self.stores.redis = connect_to_redis(&self.servers[0].url()).await;
    }
}

/// What a Sentinel knows of the master.
async fn master(sentinel: &RedisServer) -> HashMap<String, String> {
    ask(sentinel, &["SENTINEL", "MASTER", NAME]).await
}

#[tokio::test]
async fn payments_follow_a_promotion_and_what_it_lacks_is_listed() {
    let mut group = Group::start("promoted").await;
    let gateway = Process::serve("gateway", &group.stores, &[]).await.account("ADA", "1000").await;
    let worker = Process::serve("worker", &group.stores, &[]).await;
    pay_each(&gateway.api, 1..=5).await;
    gateway.api.until_settled().await;
    // What no worker settles is lost with the master.
    worker.stop().await;
    for replica in &group.servers[1..] {
        let has_all = async || {
            let acknowledged: i64 = ask(&group.servers[0], &["WAIT", "2", "1000"]).await;
            acknowledged == 2
        };
        until(&format!("{} has everything", replica.port()), has_all).await;
    }
    group.hold_replicas().await;
    pay_each(&gateway.api, 6..=7).await;
    group.servers[0].kill().await.unwrap();
    group.resume_replicas().await;
    let taken = pay(&gateway.api, "r8").await;
    assert!(taken["sequence"].as_i64().unwrap() > 1_000_000, "{taken}");
    group.follow().await;
    let _worker = Process::serve("worker", &group.stores, &[]).await;
    until("it is listed exactly", async || group.stores.losses().await == ["takeover 6-7"]).await;
    taken_anew([&gateway.api; 2], &["r6", "r7"]).await;
    gateway.api.until_settled().await;
    // The old master comes back, and is nobody's.
    group.servers.iter_mut().last().unwrap().restart().await.unwrap();
    for command in [&["partitions"][..], &["doctor"], &["pending"]] {
        let ended = group.stores.run(command).await;
        assert!(ended.stderr.is_empty(), "{command:?}: {ended:?}");
    }
    group.stores.accept_losses().await;
    gateway.settled(&group.stores).await;
    assert_eq!(gateway.api.balance("ADA").await["total_paid"], "8.00");
}

#[tokio::test]
async fn nobody_stays_with_a_master_that_sentinels_do_not_reach() {
    let mut group = Group::start("isolated").await;
    let all = Process::serve("all", &group.stores, &[]).await.account("ADA", "1000").await;
    pay(&all.api, "r1").await;
    all.api.until_settled().await;
    // Sentinels and replicas do not log in any more; we do, as other users.
    tell(&group.servers[0], &["CONFIG", "SET", "requirepass", "another"]).await;
    let mut us = group.stores.redis.clone();
    let kill = ["CLIENT", "KILL", "USER", "default", "SKIPME", "yes"];
    let _killed: i64 = crate::harness::ask(&mut us, &kill).await;
    until("payments go to another master", async || {
        let number = Uuid::now_v7().simple().to_string();
        pay(&all.api, &number).await["sequence"].as_i64().unwrap() > 1_000_000
    })
    .await;
    group.follow().await;
    pay(&all.api, "last").await;
    all.api.until_is("last", "applied").await;
    all.api.until_settled().await;
}

#[tokio::test]
async fn one_sentinel_is_enough_and_without_any_standing_connections_serve() {
    let mut group = Group::start("sentinels").await;
    for sentinel in &mut group.sentinels[..2] {
        sentinel.kill().await.unwrap();
    }
    let all = Process::serve("all", &group.stores, &[]).await.account("ADA", "1000").await;
    until_spread(&group.stores, &["tester"]).await;
    pay(&all.api, "r0").await;
    all.api.until_settled().await;
    group.sentinels[2].kill().await.unwrap();
    pay_each(&all.api, 1..=20).await;
    all.settled(&group.stores).await;
    let ended = group.stores.run(&["partitions"]).await;
    ended.refused(&["redis is not available"]);
}

#[tokio::test]
async fn an_address_of_another_kind_is_refused_with_the_right_one() {
    let group = Group::start("kinds").await;
    let refused = async |url: String, sentences: &[&str]| {
        let mut command = serve("gateway", &group.stores, &[]);
        command.env("PAYSTREAM_REDIS_URL", url);
        run(command).await.refused(sentences);
    };
    refused(group.sentinels[0].url(), &["it is a Sentinel", "redis-sentinel://"]).await;
    let other = group.stores.redis_url.replace("/pay?", "/rent?");
    refused(other, &["No such master with that name"]).await;
    let other = group.stores.redis_url.replace("/pay?", "?");
    refused(other, &["the name of the master is missing"]).await;
}
