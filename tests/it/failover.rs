//! Proves what holds when another Redis answers: a promoted replica that lacks
//! what was acknowledged, one that lacks nothing, and connections that are left
//! with the old one. Losses are listed exactly, no sequence is given out twice,
//! and order within a batch outlives whatever is forgotten or broken meanwhile.

use std::ops::RangeInclusive;

use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;

use crate::prelude::*;

/// How long a client waits that waits for less than the gateway does.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// A primary behind a proxy, and a replica of it.
pub struct Pair {
    pub primary: RedisServer,
    pub replica: RedisServer,
    pub proxy: Proxy,
    pub stores: Stores,
}

impl Pair {
    async fn start(name: &str) -> Self {
        Self::on(name, None).await
    }

    /// On the shared PostgreSQL unless another is given.
    pub async fn on(name: &str, database_url: Option<String>) -> Self {
        let pair = Self::apart(name, database_url).await;
        pair.follow().await;
        pair
    }

    /// Nothing follows the primary yet.
    async fn apart(name: &str, database_url: Option<String>) -> Self {
        let server = async |role: &str| {
            let directory = empty_directory(&format!("redis-{name}-{role}")).await;
            redis_in(&directory).await
        };
        let (primary, replica) = tokio::join!(server("primary"), server("replica"));
        let proxy = Proxy::before(&primary.url()).await;
        let stores = Stores::on(&proxy.url, database_url).await;
        Self { primary, replica, proxy, stores }
    }

    /// The replica follows the primary from now on.
    pub async fn follow(&self) {
        let port = self.primary.port().to_string();
        tell(&self.replica, &["REPLICAOF", "127.0.0.1", &port]).await;
    }

    /// Waits until the replica has all that the primary has.
    pub async fn in_step(&self) {
        until("the replica has everything", async || {
            let offset = async |server| {
                let info: String = ask(server, &["INFO", "replication"]).await;
                let up = info.contains("master_link_status:up") || info.contains("role:master");
                let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
                up.then(|| offset.map(str::to_owned)).flatten()
            };
            let (primary, replica) = (offset(&self.primary).await, offset(&self.replica).await);
            primary.is_some() && primary == replica
        })
        .await;
    }

    /// The replica takes over as it is; the primary goes on by itself.
    pub async fn promote(&self) {
        tell(&self.replica, &["REPLICAOF", "NO", "ONE"]).await;
    }

    /// The replica takes over with all that the primary has.
    pub async fn promote_in_step(&self) {
        self.in_step().await;
        self.promote().await;
    }

    /// Everybody is led to the former replica.
    pub async fn fail_over(&mut self) {
        self.proxy.lead_to(&self.replica.url());
        self.proxy.break_all().await;
        self.stores.connect_again().await;
    }
}

async fn connect(server: &RedisServer) -> MultiplexedConnection {
    connect_to_redis(&server.url()).await
}

pub async fn ask<T: redis::FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query_async(&mut connect(server).await).await.unwrap()
}

pub async fn tell(server: &RedisServer, words: &[&str]) {
    let _answer: redis::Value = ask(server, words).await;
}

/// Pays, and pays again while it is not known whether it was taken.
pub async fn pay(api: &Api, reference: &str) -> Value {
    let body = payment(reference, "ADA", "1");
    eventually("it is taken", async || {
        let reply = api.post_payment(&body).await;
        (reply.status == 202).then(|| reply.json())
    })
    .await
}

/// The same for each of these numbers; their sequences.
pub async fn pay_each(api: &Api, numbers: RangeInclusive<i64>) -> Vec<i64> {
    let mut sequences = Vec::new();
    for number in numbers {
        sequences.push(pay(api, &format!("r{number}")).await["sequence"].as_i64().unwrap());
    }
    sequences
}

/// Payments of 1 by ADA are no repetitions to the first gateway, and then are to the
/// other.
pub async fn taken_anew([first, then]: [&Api; 2], references: &[impl AsRef<str>]) {
    for reference in references {
        let body = payment(reference.as_ref(), "ADA", "1");
        first.post_payment(&body).await.is(202);
        then.post_payment(&body).await.is(200);
    }
}

#[tokio::test]
async fn what_a_promoted_replica_lacks_is_listed_and_accepted_again() {
    let mut pair = Pair::start("lacking").await;
    let a = Process::serve("gateway", &pair.stores, &[]).await;
    let b = Process::serve("gateway", &pair.stores, &[]).await;
    a.api.open_account("ADA", "1000").await;
    for (api, reference) in [(&a.api, "r1"), (&b.api, "r2"), (&a.api, "r3")] {
        pay(api, reference).await;
    }
    pair.promote_in_step().await;
    assert_eq!(pay_each(&a.api, 4..=5).await, [4, 5]);
    pair.fail_over().await;
    // The other gateway knows nothing of them, and is the first to go on.
    let taken = pay(&b.api, "r6").await;
    assert!(taken["sequence"].as_i64().unwrap() > 1_000_000, "{taken}");
    pay(&a.api, "r7").await;
    let worker = Process::serve("all", &pair.stores, &[]).await;
    until("it is listed exactly", async || pair.stores.losses().await == ["takeover 4-5"]).await;
    taken_anew([&b.api, &a.api], &["r4", "r5"]).await;
    worker.api.until_settled().await;
    pair.stores.accept_losses().await;
    pair.stores.audit().await;
    assert_eq!(worker.api.balance("ADA").await["total_paid"], "7.00");
}

#[tokio::test]
async fn what_was_settled_before_a_failover_is_not_lost_and_keeps_its_sequence() {
    let mut pair = Pair::start("settled").await;
    let a = Process::serve("all", &pair.stores, &[]).await;
    let b = Process::serve("gateway", &pair.stores, &[]).await;
    a.api.open_account("ADA", "1000").await;
    pay(&a.api, "r1").await;
    pair.promote_in_step().await;
    pay(&a.api, "r2").await;
    a.api.until_settled().await;
    pair.fail_over().await;
    assert!(pay(&b.api, "r3").await["sequence"].as_i64().unwrap() > 1_000_000);
    assert!(pay(&b.api, "r2").await["sequence"].as_i64().unwrap() > 1_000_000);
    a.settled(&pair.stores).await;
    assert_eq!(a.api.balance("ADA").await["total_paid"], "3.00");
    assert_eq!(pair.stores.losses().await, [""; 0]);
}

#[tokio::test]
async fn a_primary_that_returns_without_its_tail_is_found_out_over_a_standing_connection() {
    let pair = Pair::start("returned").await;
    let gateway = Process::serve("gateway", &pair.stores, &[]).await;
    let settings = [("PAYSTREAM_LANES", "1")];
    let worker = Process::serve("worker", &pair.stores, &settings).await;
    gateway.api.open_account("ADA", "1000").await;
    pay_each(&gateway.api, 1..=10).await;
    gateway.api.until_settled().await;
    worker.stop().await;
    pair.in_step().await;
    // From here on the replica hears nothing more.
    tell(&pair.replica, &["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(pay_each(&gateway.api, 11..=20).await.into_iter().eq(11..=20));
    pair.promote().await;
    let port = pair.replica.port().to_string();
    tell(&pair.primary, &["REPLICAOF", "127.0.0.1", &port]).await;
    until("the primary has what the replica had", async || {
        let info: String = ask(&pair.primary, &["INFO", "replication"]).await;
        info.contains("master_link_status:up")
    })
    .await;
    tell(&pair.primary, &["REPLICAOF", "NO", "ONE"]).await;
    // Another is the first to see that it has been a replica.
    let worker = Process::serve("worker", &pair.stores, &settings).await;
    let jumped = "select count(*) from partition_owners where head_sequence >= 999999";
    pair.stores.until(i64::from(PARTITIONS), jumped).await;
    let taken = pay(&gateway.api, "new").await;
    assert!(taken["sequence"].as_i64().unwrap() > 1_000_000, "{taken}");
    until("it is listed exactly", async || pair.stores.losses().await == ["takeover 11-20"]).await;
    let lost: Vec<String> = (11..=20).map(|n| format!("r{n}")).collect();
    taken_anew([&gateway.api; 2], &lost).await;
    gateway.api.until_settled().await;
    // The counters that jumped are no sequences that were given out.
    worker.stop().await;
    let _worker = Process::serve("worker", &pair.stores, &settings).await;
    pay(&gateway.api, "last").await;
    gateway.api.until_settled().await;
    assert_eq!(pair.stores.keys("*:lost").await.len(), 1);
    assert_eq!(pair.stores.losses().await, ["takeover 11-20"]);
    pair.stores.accept_losses().await;
    pair.stores.audit().await;
    assert_eq!(gateway.api.balance("ADA").await["total_paid"], "22.00");
}

/// Waits until the ledger knows of every partition how far it has jumped.
async fn heads_are_noted(stores: &Stores) {
    let noted = "select count(*) from partition_owners o join topology t using (generation)
         where head_sequence > last_sequence + 900000";
    stores.until(i64::from(PARTITIONS), noted).await;
}

/// Sequences that are on record as lost, open or not.
pub const LOST: &str = "select count(*) from sequence_jumps where lost_first is not null";

#[tokio::test]
async fn a_failover_that_loses_nothing_is_no_loss_then_or_later() {
    let mut pair = Pair::start("quiet").await;
    let mut all = Process::serve("all", &pair.stores, &[]).await;
    let mut gateway = Process::serve("gateway", &pair.stores, &[]).await;
    all.api.open_account("ADA", "1000").await;
    pay(&all.api, "r1").await;
    all.api.until_settled().await;
    pair.promote_in_step().await;
    pair.fail_over().await;
    heads_are_noted(&pair.stores).await;
    pair.fail_over().await;
    pay(&all.api, "r2").await;
    all.api.until_settled().await;
    for process in [all, gateway] {
        process.stop().await;
    }
    gateway = Process::serve("gateway", &pair.stores, &[]).await;
    pay(&gateway.api, "r3").await;
    all = Process::serve("all", &pair.stores, &[]).await;
    for customer in 0..30 {
        all.api.post_payment(&payment(&format!("c{customer}"), &format!("C{customer}"), "1")).await;
    }
    all.api.until_settled().await;
    assert_eq!(pair.stores.count(LOST).await, 0);
    assert_eq!(all.api.balance("ADA").await["total_paid"], "3.00");
    pair.stores.audit().await;
}

#[tokio::test]
async fn partitions_that_were_idle_over_two_failovers_can_be_resized() {
    let mut pair = Pair::start("idle").await;
    let all = Process::serve("all", &pair.stores, &[]).await;
    all.api.open_account("ADA", "1000").await;
    pair.promote_in_step().await;
    pair.fail_over().await;
    heads_are_noted(&pair.stores).await;
    let port = pair.replica.port().to_string();
    tell(&pair.primary, &["REPLICAOF", "127.0.0.1", &port]).await;
    std::mem::swap(&mut pair.primary, &mut pair.replica);
    pair.promote_in_step().await;
    pair.fail_over().await;
    let twice = "select count(*) from partition_owners where head_sequence > 1900000";
    pair.stores.until(i64::from(PARTITIONS), twice).await;
    pair.stores.succeed(&resize(&["--partitions", "16"])).await;
    served(&all, 16).await;
    pay(&all.api, "r1").await;
    all.api.until_settled().await;
    assert_eq!(pair.stores.losses().await, [""; 0]);
    pair.stores.audit().await;
}

#[tokio::test]
async fn a_failover_right_after_a_resize_is_listed_and_resizes_go_on() {
    let mut pair = Pair::start("resized").await;
    let gateway = Process::serve("gateway", &pair.stores, &[]).await;
    let worker = Process::serve("all", &pair.stores, &[]).await;
    gateway.api.open_account("ADA", "1000").await;
    pair.stores.succeed(&resize(&["--partitions", "16"])).await;
    served(&gateway, 16).await;
    worker.stop().await;
    pair.promote_in_step().await;
    pay_each(&gateway.api, 1..=2).await;
    pair.fail_over().await;
    pay(&gateway.api, "r3").await;
    let worker = Process::serve("all", &pair.stores, &[]).await;
    worker.api.until_settled().await;
    assert_eq!(pair.stores.losses().await, ["takeover 1-2"]);
    pay(&gateway.api, "r1").await;
    worker.api.until_settled().await;
    pair.stores.accept_losses().await;
    // The new streams begin on a server that was promoted.
    pair.stores.succeed(&resize(&["--partitions", &PARTITIONS.to_string()])).await;
    served(&gateway, usize::from(PARTITIONS)).await;
    heads_are_noted(&pair.stores).await;
    worker.stop().await;
    let worker = Process::serve("all", &pair.stores, &[]).await;
    pay(&gateway.api, "r4").await;
    worker.api.until_settled().await;
    assert_eq!(pair.stores.losses().await, [""; 0]);
    assert_eq!(pair.stores.count(LOST).await, 1);
    pair.stores.audit().await;
}

#[tokio::test]
async fn a_primary_stays_the_same_when_a_first_replica_follows() {
    let mut pair = Pair::apart("first", None).await;
    let before = Process::serve("gateway", &pair.stores, &[]).await.account("ADA", "1000").await;
    pay(&before.api, "r1").await;
    let named = ask::<String>(&pair.primary, &["INFO", "replication"]).await;
    pair.follow().await;
    pair.in_step().await;
    // Redis calls its history by another name now, and whoever connects sees that.
    let id = |info: &str| {
        info.lines().find(|line| line.starts_with("master_replid:")).map(str::to_owned)
    };
    assert_ne!(id(&named), id(&ask::<String>(&pair.primary, &["INFO", "replication"]).await));
    let since = Process::serve("all", &pair.stores, &[]).await;
    for (api, reference) in [(&since.api, "r2"), (&before.api, "r3"), (&since.api, "r4")] {
        pay(api, reference).await;
    }
    since.api.until_settled().await;
    pair.promote_in_step().await;
    pair.fail_over().await;
    pay(&before.api, "r5").await;
    pay(&since.api, "r6").await;
    since.settled(&pair.stores).await;
    assert_eq!(since.api.balance("ADA").await["total_paid"], "6.00");
    assert_eq!(pair.stores.losses().await, [""; 0]);
}

#[tokio::test]
async fn nobody_stays_with_a_primary_that_was_demoted() {
    let mut pair = Pair::start("demoted").await;
    let process = Process::serve("all", &pair.stores, &[]).await.account("ADA", "1000").await;
    pay(&process.api, "r1").await;
    pair.promote_in_step().await;
    // Connections that stand lead to the former primary, which follows now.
    pair.proxy.lead_to(&pair.replica.url());
    let port = pair.replica.port().to_string();
    tell(&pair.primary, &["REPLICAOF", "127.0.0.1", &port]).await;
    pay(&process.api, "r2").await;
    pair.stores.connect_again().await;
    process.settled(&pair.stores).await;
}

/// A gateway that reaches Redis over this network.
async fn over_a_network() -> (Process, Proxy) {
    let stores = Stores::new().await;
    let proxy = Proxy::before(&stores.redis_url).await;
    let process = Process::serve("gateway", &stores, &[("PAYSTREAM_REDIS_URL", &proxy.url)]).await;
    pay(&process.api, "r1").await;
    (process, proxy)
}

/// Posts a payment, which is refused because Redis does not answer.
async fn refused(api: Api, reference: String) {
    api.post_payment(&payment(&reference, "ADA", "1")).await.is_problem(503, "stream_unavailable");
}

#[tokio::test]
async fn a_gateway_comes_back_although_nobody_waited_for_a_silent_redis_to_the_end() {
    let (process, proxy) = over_a_network().await;
    proxy.set(Way::Dumb);
    // So many in vain that no more is asked of Redis than whether it is there, and
    // that question is given up before the reply is late.
    let posts = (0..8).map(|n| refused(process.api.clone(), format!("silent{n}")));
    join_all(posts).await;
    process.until_logged("circuit opened").await;
    for _ in 0..2 {
        let health = process.api.get("/api/v1/health").await;
        assert_eq!(health.json()["dependencies"]["redis"]["status"], "down", "{}", health.text);
    }
    proxy.set(Way::Open);
    process.api.until_ready().await;
    pay(&process.api, "r2").await;
}

#[tokio::test]
async fn a_gateway_leaves_silent_connections_whether_its_callers_wait_or_not() {
    let (process, proxy) = over_a_network().await;
    proxy.set(Way::Dumb);
    refused(process.api.clone(), "r2".to_owned()).await;
    // What has lost something stays silent for good; new connections do not.
    proxy.set(Way::Open);
    pay(&process.api, "r2").await;
    let paths = [
        ("/api/v1/payments", payment("r3", "ADA", "1")),
        ("/api/v1/payments/batch", json!([payment("r4", "ADA", "1")])),
    ];
    // Whether it was taken, within a time that is shorter than that of the gateway.
    let taken = async |(path, body): &(&str, Value)| {
        let request = process.api.request(Method::POST, path).json(body);
        let answer = request.timeout(IMPATIENCE).send().await.ok()?;
        let taken = matches!(answer.status().as_u16(), 200 | 202);
        let body: Value = answer.json().await.ok()?;
        (taken && body["refused"].as_u64().unwrap_or(0) == 0).then_some(())
    };
    proxy.set(Way::Dumb);
    for payments in &paths {
        assert_eq!(taken(payments).await, None);
    }
    proxy.set(Way::Open);
    for payments in &paths {
        eventually("it is taken on a new connection", async || taken(payments).await).await;
    }
}

/// Customers that are paid for in batches, one by each client.
const CLIENTS: usize = 6;
/// Batches of each client, and payments in each.
const BATCHES: usize = 12;
const BATCH: usize = 1_000;

/// Sends batches of one customer, one after the other, each until it is known
/// what became of all of it; says how many payments were called repetitions in
/// the answer to their first sending.
async fn send_batches(api: Api, customer: String, answered: mpsc::Sender<()>) -> usize {
    let mut replayed = 0;
    for batch in 0..BATCHES {
        let reference = |n: usize| format!("{customer}-{batch:02}-{n:04}");
        let items: Vec<Value> =
            (0..BATCH).map(|n| payment(&reference(n), &customer, "1")).collect();
        let body = json!(items);
        let first = api.post("/api/v1/payments/batch", &body).await.json();
        replayed += first["replayed"].as_u64().unwrap_or(0);
        answered.send(()).await.unwrap();
        eventually("a batch is taken", async || {
            let reply = api.post("/api/v1/payments/batch", &body).await.json();
            (reply["replayed"].as_u64()? == BATCH as u64).then_some(())
        })
        .await;
        answered.send(()).await.unwrap();
    }
    usize::try_from(replayed).unwrap()
}

#[tokio::test]
async fn batches_keep_their_order_and_are_no_repetitions_while_scripts_are_forgotten() {
    let (redis, stores) = Stores::on_own_redis("redis-forgetful").await;
    let process = Process::serve("all", &stores, &[]).await;
    let mut clients = JoinSet::new();
    let (tell, mut answers) = mpsc::channel(1);
    for client in 0..CLIENTS {
        let customer = format!("C{client}");
        process.api.open_account(&customer, "1000000").await;
        clients.spawn(send_batches(process.api.clone(), customer, tell.clone()));
    }
    drop(tell);
    let mut replayed = 0;
    let mut connection = connect(&redis).await;
    // Whenever one is answered, others are under way.
    while answers.recv().await.is_some() {
        redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut connection).await.unwrap();
    }
    for client in clients.join_all().await {
        replayed += client;
    }
    assert_eq!(replayed, 0, "payments were called repetitions at their first sending");
    process.settled(&stores).await;
    let inverted = "select count(*) from (select transaction_reference as this, lag(
             transaction_reference) over (partition by customer_id order by account_version)
             as before from processed_transactions) s where this < before";
    assert_eq!(stores.count(inverted).await, 0, "payments were applied in another order");
}
