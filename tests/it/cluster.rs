//! Proves that a Redis Cluster is one place for payments: they flow over all its masters, a master
//! that is killed is replaced, slots that move lose nothing and open no holes, and operators see
//! and change what they always do.

use std::ops::Range;

use tokio_util::sync::CancellationToken;

use crate::{
    doctor::doctor,
    failover::{ask, taken_anew, tell},
    harness::{EVERYTHING, redis_users},
    prelude::*,
    process::signal,
};

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
/// Customers that are paid for at the same time, each in order.
const CLIENTS: u32 = 12;

pub struct Cluster {
    /// Masters, then a replica of each, then what joined later.
    nodes: Vec<RedisServer>,
    name: String,
    pub stores: Stores,
}

async fn node(name: &str, number: usize) -> RedisServer {
    let directory = empty_directory(&format!("redis-{name}-node-{number}")).await;
    RedisServer::cluster_node(&directory, &redis_users(), &[]).await.expect("a node starts")
}

async fn id(node: &RedisServer) -> String {
    ask(node, &["CLUSTER", "MYID"]).await
}

async fn info(node: &RedisServer, field: &str) -> String {
    let info: String = ask(node, &["CLUSTER", "INFO"]).await;
    let found = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    found.unwrap().trim().to_owned()
}

impl Cluster {
    pub async fn start(name: &str) -> Self {
        let mut nodes = Vec::new();
        for number in 0..2 * MASTERS {
            nodes.push(node(name, number).await);
        }
        for (number, node) in nodes.iter().enumerate() {
            let epoch = (number + 1).to_string();
            tell(node, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            if number < MASTERS {
                let first = (SLOTS * number / MASTERS).to_string();
                let last = (SLOTS * (number + 1) / MASTERS - 1).to_string();
                tell(node, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            }
        }
        for node in &nodes[1..] {
            meet(&nodes[0], node).await;
        }
        for node in &nodes {
            until("nodes know each other", async || info(node, "cluster_known_nodes").await == "6")
                .await;
        }
        for (master, replica) in nodes.iter().zip(&nodes[MASTERS..]) {
            let id = id(master).await;
            until("it replicates", async || {
                let mut connection = connect_to_redis(&replica.url()).await;
                let mut command = redis::cmd("CLUSTER");
                command.arg("REPLICATE").arg(&id).exec_async(&mut connection).await.is_ok()
            })
            .await;
        }
        for (number, node) in nodes.iter().enumerate() {
            until("the cluster is whole", async || {
                let replication: String = ask(node, &["INFO", "replication"]).await;
                let is_up = number < MASTERS && replication.contains("state=online")
                    || replication.contains("master_link_status:up");
                is_up && info(node, "cluster_state").await == "ok"
            })
            .await;
        }
        // Two of the masters are named; the rest is found.
        let password = nodes[0].password();
        let url = format!(
            "redis-cluster://{EVERYTHING}:{password}@127.0.0.1:{},127.0.0.1:{}",
            nodes[0].port(),
            nodes[1].port()
        );
        let stores = Stores::on(&url, None).await;
        Self { nodes, name: name.to_owned(), stores }
    }

    /// The slot of a partition, by the key of its stream on one of the nodes.
    async fn slot_of(&self, partition: u16) -> u16 {
        let pattern = format!("{}:{{p{partition:02}.*}}:stream", self.stores.key_prefix);
        for node in &self.nodes[..MASTERS] {
            let keys: Vec<String> = ask(node, &["KEYS", &pattern]).await;
            if let Some(key) = keys.first() {
                return ask(node, &["CLUSTER", "KEYSLOT", key]).await;
            }
        }
        panic!("partition {partition} is nowhere")
    }

    /// Which of the nodes has this slot.
    async fn owner_of(&self, slot: u16) -> usize {
        let has = |(at, node)| async move {
            let count: u64 = ask(node, &["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]).await;
            let role: String = ask(node, &["INFO", "replication"]).await;
            (count > 0 && role.contains("role:master")).then_some(at)
        };
        for one in self.nodes.iter().enumerate() {
            if let Some(at) = has(one).await {
                return at;
            }
        }
        panic!("slot {slot} is nowhere")
    }

    /// Moves a slot to another node, its keys one after the other; `halfway` is done amid them.
    async fn move_slot(&self, slot: u16, to: usize, halfway: impl AsyncFnOnce()) {
        let from = self.owner_of(slot).await;
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let (source_id, target_id, slot) = (id(source).await, id(target).await, slot.to_string());
        tell(target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]).await;
        tell(source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]).await;
        let (port, mut halfway) = (target.port().to_string(), Some(halfway));
        loop {
            let keys: Vec<String> = ask(source, &["CLUSTER", "GETKEYSINSLOT", &slot, "4"]).await;
            if keys.is_empty() {
                break;
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
            words.extend(["AUTH", source.password(), "KEYS"]);
            words.extend(keys.iter().map(String::as_str));
            tell(source, &words).await;
            if let Some(halfway) = halfway.take() {
                halfway().await;
            }
        }
        for node in [target, source] {
            tell(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]).await;
        }
    }

    /// Clients pay until they are told to stop; returns how many payments each has made.
    fn pay(&self, apis: &[&Api], label: &str, stop: &CancellationToken) -> JoinSet<(u32, u32)> {
        let mut clients = JoinSet::new();
        for client in 1..=CLIENTS {
            let api = apis[client as usize % apis.len()].clone();
            let (label, stop) = (label.to_owned(), stop.clone());
            clients.spawn(async move {
                let mut number = 0;
                while !stop.is_cancelled() {
                    let customer = format!("GIG{client:05}");
                    let body = payment(&format!("{label}-{client}-{number}"), &customer, "1");
                    eventually("it is taken", async || {
                        let reply = api.post_payment(&body).await;
                        matches!(reply.status, 200 | 202).then_some(())
                    })
                    .await;
                    number += 1;
                }
                (client, number)
            });
        }
        clients
    }

    /// Nothing was lost, nothing is listed, and every payment had one effect.
    async fn sums_up(&self, api: &Api, paid: &BTreeMap<u32, u32>) {
        api.until_settled().await;
        assert_eq!(self.stores.losses().await, [""; 0]);
        self.stores.audit_ledger().await;
        for (client, count) in paid {
            let balance = api.balance(&format!("GIG{client:05}")).await;
            assert_eq!(balance["total_paid"], format!("{count}.00"), "{client}");
        }
    }

    /// Partitions whose sequences have jumped.
    async fn holes(&self) -> i64 {
        self.stores
            .count("select count(*) from partition_owners where head_sequence > 900000")
            .await
    }
}

async fn meet(node: &RedisServer, other: &RedisServer) {
    let (port, bus) = (other.port().to_string(), other.bus_port().unwrap().to_string());
    tell(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
}

async fn add(paid: &mut BTreeMap<u32, u32>, mut clients: JoinSet<(u32, u32)>) {
    while let Some(ended) = clients.join_next().await {
        let (client, count) = ended.unwrap();
        *paid.entry(client).or_default() += count;
    }
}

/// Waits until this many more payments were taken, of all partitions.
async fn more_are_taken(stores: &Stores, count: i64) {
    let settled = "select coalesce(sum(last_sequence), 0)::bigint from partition_owners";
    let before = stores.count(settled).await;
    until("more is settled", async || stores.count(settled).await >= before + count).await;
}

#[tokio::test]
async fn payments_flow_over_all_masters_and_operators_see_them() {
    let cluster = Cluster::start("flow").await;
    let stores = &cluster.stores;
    let gateway = Process::serve("gateway", stores, &[]).await;
    let worker = Process::serve("worker", stores, &[]).await;
    gateway.api.seed(CLIENTS).await;
    let batch: Vec<Value> = (0..600)
        .map(|n| payment(&format!("b{n}"), &format!("GIG{:05}", n % CLIENTS + 1), "1"))
        .collect();
    let taken = gateway.api.post("/api/v1/payments/batch", &json!(batch)).await.is(200).json();
    assert_eq!(taken["accepted"], 600, "{taken}");
    let paid: BTreeMap<u32, u32> = (1..=CLIENTS).map(|client| (client, 600 / CLIENTS)).collect();
    cluster.sums_up(&gateway.api, &paid).await;
    assert_eq!(gateway.api.payment("b7").await["status"], "applied");
    // Streams of each master are in use.
    for node in &cluster.nodes[..MASTERS] {
        let keys: Vec<String> = ask(node, &["KEYS", "*:refs:*"]).await;
        assert!(!keys.is_empty());
    }
    for command in [
        &["partitions"][..],
        &["pending"],
        &["groups", "register", "reports", "--note", "for Ada"],
        &["groups", "list"],
        &["groups", "retire", "reports", "--yes"],
        &["show", "b7"],
    ] {
        stores.succeed(command).await;
    }
    let said = doctor(stores).await;
    assert!(said.bad().is_empty(), "{:?}", said.findings);
    let shown = stores.succeed(&["partitions"]).await;
    for node in &cluster.nodes[..MASTERS] {
        assert!(shown.contains(&format!("127.0.0.1:{}", node.port())), "{shown}");
    }
    stores.succeed(&resize(&["--partitions", "16"])).await;
    served(&gateway, 16).await;
    let stop = CancellationToken::new();
    let clients = cluster.pay(&[&gateway.api], "resized", &stop);
    more_are_taken(stores, 50).await;
    stop.cancel();
    let mut paid = paid;
    add(&mut paid, clients).await;
    cluster.sums_up(&gateway.api, &paid).await;
    drop(worker);
}

#[tokio::test]
async fn a_master_is_killed_under_load_and_what_replicas_confirmed_is_there() {
    let mut cluster = Cluster::start("killed").await;
    let settings = [("PAYSTREAM_DURABILITY", "replicated")];
    let gateway = Process::serve("gateway", &cluster.stores, &settings).await;
    // Where the killed master leaves no replica, the disk must do.
    let after = Process::serve("gateway", &cluster.stores, &[]).await;
    let _worker = Process::serve("worker", &cluster.stores, &[]).await;
    gateway.api.seed(CLIENTS).await;
    let (mut paid, stop) = (BTreeMap::new(), CancellationToken::new());
    let clients = cluster.pay(&[&gateway.api], "before", &stop);
    more_are_taken(&cluster.stores, 100).await;
    cluster.nodes[0].kill().await.unwrap();
    more_are_taken(&cluster.stores, 100).await;
    until("its replica takes over", async || {
        let role: String = ask(&cluster.nodes[MASTERS], &["INFO", "replication"]).await;
        role.contains("role:master")
    })
    .await;
    cluster.nodes[0].restart().await.unwrap();
    stop.cancel();
    add(&mut paid, clients).await;
    let stop = CancellationToken::new();
    let clients = cluster.pay(&[&after.api], "after", &stop);
    more_are_taken(&cluster.stores, 100).await;
    stop.cancel();
    add(&mut paid, clients).await;
    cluster.sums_up(&after.api, &paid).await;
    assert!(cluster.holes().await > 0, "a failover is one in a cluster, too");
    // A slot that moves to the one that was promoted looks like another failover, and no loss.
    let partition = PARTITIONS - 1;
    let slot = cluster.slot_of(partition).await;
    cluster.move_slot(slot, MASTERS, async || {}).await;
    let stop = CancellationToken::new();
    let clients = cluster.pay(&[&gateway.api, &after.api], "moved", &stop);
    more_are_taken(&cluster.stores, 100).await;
    stop.cancel();
    add(&mut paid, clients).await;
    cluster.sums_up(&after.api, &paid).await;
}

#[tokio::test]
async fn a_replica_that_lacks_what_came_since_its_slot_moved_gives_no_number_twice() {
    let mut cluster = Cluster::start("lagging").await;
    let stores = &cluster.stores;
    let knows = Process::serve("gateway", stores, &[]).await.account("ADA", "1000").await;
    pay(&knows.api, "r1").await;
    let ada = partition_of(&CustomerId::parse("ADA").unwrap(), PARTITIONS);
    let slot = cluster.slot_of(ada).await;
    let to = (cluster.owner_of(slot).await + 1) % MASTERS;
    cluster.move_slot(slot, to, async || {}).await;
    let replica = MASTERS + to;
    let is_there = |info: String| info.contains("master_link_status:up");
    until("the replica has the slot", async || {
        let keys: u64 =
            ask(&cluster.nodes[replica], &["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]).await;
        keys > 0 && is_there(ask(&cluster.nodes[replica], &["INFO", "replication"]).await)
    })
    .await;
    // It hears nothing more, not even what is on its way.
    signal(cluster.nodes[replica].pid(), "STOP").await;
    tell(&cluster.nodes[to], &["CLIENT", "KILL", "TYPE", "replica"]).await;
    for reference in ["r2", "r3"] {
        pay(&knows.api, reference).await;
    }
    cluster.nodes[to].kill().await.unwrap();
    signal(cluster.nodes[replica].pid(), "CONT").await;
    let other = Process::serve("gateway", &cluster.stores, &[]).await;
    let taken = pay(&other.api, "r4").await;
    assert!(taken["sequence"].as_i64().unwrap() > 1_000_000, "{taken}");
    pay(&knows.api, "r5").await;
    let _worker = Process::serve("worker", &cluster.stores, &[]).await;
    until("it is listed exactly", async || cluster.stores.losses().await == ["takeover 2-3"]).await;
    taken_anew([&other.api, &knows.api], &["r2", "r3"]).await;
    other.api.until_settled().await;
    assert_eq!(other.api.balance("ADA").await["total_paid"], "5.00");
}

#[tokio::test]
async fn slots_move_under_load_to_a_node_that_joins_and_nothing_is_lost() {
    let mut cluster = Cluster::start("moves").await;
    let gateway = Process::serve("gateway", &cluster.stores, &[]).await;
    let other = Process::serve("gateway", &cluster.stores, &[]).await;
    let _worker = Process::serve("worker", &cluster.stores, &[]).await;
    gateway.api.seed(CLIENTS).await;
    let (mut paid, stop) = (BTreeMap::new(), CancellationToken::new());
    let clients = cluster.pay(&[&gateway.api, &other.api], "moving", &stop);
    more_are_taken(&cluster.stores, 100).await;
    let joined = node(&cluster.name, cluster.nodes.len()).await;
    meet(&cluster.nodes[0], &joined).await;
    until("it is known", async || info(&joined, "cluster_known_nodes").await == "7").await;
    until("it is part of it", async || info(&joined, "cluster_state").await == "ok").await;
    cluster.nodes.push(joined);
    let all: Range<u16> = 0..PARTITIONS;
    for partition in all.step_by(2) {
        let slot = cluster.slot_of(partition).await;
        let to = cluster.nodes.len() - 1;
        cluster.move_slot(slot, to, async || more_are_taken(&cluster.stores, 30).await).await;
        more_are_taken(&cluster.stores, 30).await;
    }
    stop.cancel();
    add(&mut paid, clients).await;
    cluster.sums_up(&gateway.api, &paid).await;
    assert_eq!(cluster.holes().await, 0);
    assert_eq!(cluster.stores.count(LOST).await, 0);
}

#[tokio::test]
async fn a_node_that_is_named_as_a_single_server_is_refused() {
    let cluster = Cluster::start("named").await;
    for (url, sentence) in [
        (cluster.nodes[0].url_of(EVERYTHING), "redis-cluster://"),
        (cluster.nodes[0].url_of(EVERYTHING).replace("redis:", "redis-sentinel:") + "pay", "redis"),
    ] {
        let mut command = serve("gateway", &cluster.stores, &[]);
        command.env("PAYSTREAM_REDIS_URL", url);
        run(command).await.refused(&[sentence]);
    }
}

#[tokio::test]
async fn one_master_that_is_away_keeps_nobody_from_what_the_others_have() {
    let cluster = Cluster::start("one-away").await;
    let stores = &cluster.stores;
    for node in &cluster.nodes {
        tell(node, &["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await;
    }
    let gateway = Process::serve("gateway", stores, &[]).await;
    let worker = Process::serve("worker", stores, &[]).await;
    gateway.api.seed(CLIENTS).await;
    let mut partitions = BTreeMap::new();
    for client in 1..=CLIENTS {
        let taken =
            gateway.api.pay(&format!("before-{client}"), &format!("GIG{client:05}"), "1").await;
        partitions.insert(client, taken["partition"].as_u64().unwrap());
    }
    gateway.api.until_settled().await;
    // The one that is met first of those that do not know whether the streams were moved, which a
    // start must hear. Nobody takes over from it.
    let moved = format!("{}:moved", stores.key_prefix);
    let slot: usize = ask(&cluster.nodes[0], &["CLUSTER", "KEYSLOT", &moved]).await;
    let knows = (slot * MASTERS + MASTERS - 1) / SLOTS;
    let by_name = |at: &usize| format!("127.0.0.1:{}", cluster.nodes[*at].port());
    let away = (0..MASTERS).filter(|at| *at != knows).min_by_key(by_name).unwrap();
    let name = by_name(&away);
    for at in [MASTERS + away, away] {
        signal(cluster.nodes[at].pid(), "STOP").await;
    }
    let look = async || stores.said(&["partitions"]).await;
    let shown = look().await;
    let rows = shown["partitions"].as_array().unwrap();
    let silent: BTreeSet<u64> = rows
        .iter()
        .filter(|row| row["server"] == *name)
        .map(|row| row["partition"].as_u64().unwrap())
        .collect();
    assert!(!silent.is_empty() && silent.len() < rows.len(), "{shown}");
    for row in rows {
        let is_silent = silent.contains(&row["partition"].as_u64().unwrap());
        assert_eq!(row["lag"].is_null(), is_silent, "{row}");
    }
    let trouble = shown["redis_trouble"].as_str().unwrap();
    assert!(trouble.starts_with(&name) && trouble.contains("nothing is known of"), "{trouble}");
    let page = stores.run(&["partitions"]).await;
    page.refused(&[]);
    for text in [trouble, "lag unknown, pending unknown"] {
        assert!(page.stdout.contains(text), "{text}\n{page:?}");
    }
    let console = gateway.api.get("/console").await.is(200);
    assert!(console.text.contains("so nothing is known of"), "{}", console.text);

    // Processes that were there, and such that begin now.
    let late = Process::serve("gateway", stores, &[]).await;
    for api in [&gateway.api, &late.api] {
        until("it is ready", async || api.get("/readyz").await.status == 200).await;
    }
    for (client, _) in partitions.iter().filter(|(_, on)| !silent.contains(on)) {
        let api = if client % 2 == 0 { &gateway.api } else { &late.api };
        let reference = format!("meanwhile-{client}");
        api.pay(&reference, &format!("GIG{client:05}"), "1").await;
        api.until_is(&reference, "applied").await;
    }
    let said = doctor(stores).await;
    let found = said.find("redis_unreachable").unwrap();
    assert_eq!(found["subject"], format!("redis {name}"));
    said.tells("redis_unreachable", "critical", &format!("{name}, one of 3 servers"));
    // Of streams that nobody sees, nothing good is told.
    assert!(said.findings.iter().all(|one| one["code"] != "stream_missing"), "{:?}", said.findings);

    for at in [away, MASTERS + away] {
        signal(cluster.nodes[at].pid(), "CONT").await;
    }
    let look_again = async || stores.run(&["partitions"]).await.status.success();
    until("all is known again", look_again).await;

    // Where the rest of a cluster refuses everything as well, nothing is said to be well.
    for node in &cluster.nodes {
        tell(node, &["CONFIG", "SET", "cluster-require-full-coverage", "yes"]).await;
    }
    for at in [MASTERS + away, away] {
        signal(cluster.nodes[at].pid(), "STOP").await;
    }
    until("nobody is ready", async || gateway.api.get("/readyz").await.status == 503).await;
    stores.run(&["partitions"]).await.refused(&["Redis does not answer"]);
    let said = doctor(stores).await;
    said.has("redis_unreachable", "critical");
    assert!(said.findings.iter().all(|one| one["code"] != "stream_missing"), "{:?}", said.findings);
    for at in [away, MASTERS + away] {
        signal(cluster.nodes[at].pid(), "CONT").await;
    }
    until("all is known again", look_again).await;
    for client in partitions.keys() {
        let reference = format!("after-{client}");
        gateway.api.pay(&reference, &format!("GIG{client:05}"), "1").await;
    }
    gateway.api.until_settled().await;
    assert_eq!(stores.losses().await, [""; 0]);
    stores.audit_ledger().await;
    for process in [gateway, late, worker] {
        process.stop().await;
    }
}
