//! Proves that Redis, Sentinels and the nodes of a cluster are reached over TLS under an authority of
//! our own, that they are shown the certificate they ask for, and that a wrong one is named.

use std::path::PathBuf;

use paystream_dev::Port;

use crate::{
    doctor::doctor_with,
    failover::{ask, tell},
    harness::{EVERYTHING, redis_users},
    prelude::*,
    tls::Authority,
};

const CA: &str = "PAYSTREAM_REDIS_CA_FILE";
const CERTIFICATE: &str = "PAYSTREAM_REDIS_CERTIFICATE_FILE";
const KEY: &str = "PAYSTREAM_REDIS_KEY_FILE";

/// An authority, and what it has signed for servers and for us.
struct Signed {
    authority: Authority,
    ca: String,
    certificate: String,
    key: String,
}

impl Signed {
    async fn new() -> Self {
        let authority = Authority::new().await;
        authority.sign("server", "redis").await;
        authority.sign("client", "us").await;
        let [ca, certificate, key] = ["ca.pem", "us.pem", "us.key"].map(|one| authority.path(one));
        Self { authority, ca, certificate, key }
    }

    /// The settings of a process that is shown to Redis.
    fn ours(&self) -> [(&str, &str); 3] {
        [(CA, &self.ca), (CERTIFICATE, &self.certificate), (KEY, &self.key)]
    }

    /// The settings of a server that takes TLS at this port beside the harness' own, and of those
    /// alone whom the authority has signed.
    fn settings(&self, port: &Port) -> Vec<String> {
        let file = |name: &str| self.authority.path(name);
        vec![
            format!("tls-port {}", port.number()),
            format!("tls-cert-file {}", file("redis.pem")),
            format!("tls-key-file {}", file("redis.key")),
            format!("tls-ca-cert-file {}", file("ca.pem")),
            // For whom it asks itself: nodes of a cluster, Sentinels, primaries.
            format!("tls-client-cert-file {}", file("us.pem")),
            format!("tls-client-key-file {}", file("us.key")),
        ]
    }

    /// Payments go through, and the doctor is content.
    async fn serve(&self, stores: &Stores) {
        let all = Process::serve("all", stores, &self.ours()).await.account("ADA", "1000").await;
        for number in 0..8 {
            all.api.pay(&format!("r{number}"), "ADA", "1").await;
        }
        all.api.until_settled().await;
        assert_eq!(all.api.balance("ADA").await["total_paid"], "8.00");
        let said = doctor_with(stores, &self.ours()).await;
        assert!(said.bad().is_empty(), "{:?}", said.findings);
        all.stop().await;
    }
}

/// A port for TLS; nobody else's while it is kept.
fn free_port() -> Port {
    Port::choose(None, u64::from(std::process::id())).unwrap()
}

async fn directory(name: &str) -> PathBuf {
    empty_directory(&format!("redis-tls-{name}")).await
}

async fn server(name: &str, settings: &[String]) -> RedisServer {
    let (place, users) = (directory(name).await, redis_users());
    RedisServer::with_settings(&place, &users, settings).await.expect("Redis starts")
}

fn login(server: &RedisServer) -> String {
    format!("{EVERYTHING}:{}", server.password())
}

#[tokio::test]
async fn one_server_is_reached_over_tls_and_what_is_wrong_is_named() {
    let (signed, port) = (Signed::new().await, free_port());
    let redis = server("one", &signed.settings(&port)).await;
    let mut stores = Stores::on(&redis.url(), None).await;
    stores.redis_url = format!("rediss://{}@127.0.0.1:{}/", login(&redis), port.number());
    signed.serve(&stores).await;

    let other = Signed::new().await;
    for (settings, why) in [
        (&[][..], "UnknownIssuer"),
        (&[(CA, &*other.ca)], "certificate"),
        (&[(CA, &*signed.ca)], ""),
        (&[(CA, &*signed.ca), (CERTIFICATE, &*other.certificate), (KEY, &*other.key)], ""),
    ] {
        doctor_with(&stores, settings).await.tells("redis_unreachable", "critical", why);
    }
    let refused = async |settings: &[(&str, &str)], why: &str| {
        let mut command = operate(&stores, &["partitions"]);
        command.envs(settings.iter().copied());
        run(command).await.refused(&[why]);
    };
    refused(&[(CA, "/nowhere.pem")], "PAYSTREAM_REDIS_CA_FILE: could not read /nowhere.pem").await;
    refused(&[(CA, &signed.key)], "has no CERTIFICATE in PEM").await;
    let lone = operate(&stores, &["partitions"]).env(CERTIFICATE, &signed.certificate).output();
    let lone = lone.await.unwrap();
    assert!(String::from_utf8_lossy(&lone.stderr).contains("--redis-key-file"), "{lone:?}");
    signed.authority.encrypt("us").await;
    refused(&signed.ours(), "us.key is encrypted").await;
}

#[tokio::test]
async fn sentinels_and_the_master_that_they_name_are_reached_over_tls() {
    const NAME: &str = "pay";
    let (signed, port) = (Signed::new().await, free_port());
    let settings = [signed.settings(&port), vec!["tls-replication yes".to_owned()]].concat();
    let redis = server("master", &settings).await;
    let (mut ports, mut sentinels) = (Vec::new(), Vec::new());
    for number in 0..3 {
        let at = free_port();
        let settings = [signed.settings(&at), vec!["tls-replication yes".to_owned()]].concat();
        let place = directory(&format!("sentinel-{number}")).await;
        let sentinel = RedisServer::sentinel(&place, NAME, port.number(), &settings).await;
        sentinels.push(sentinel.expect("a Sentinel starts"));
        ports.push(at);
    }
    for sentinel in &sentinels {
        until("a Sentinel sees the master", async || {
            let words: Vec<String> = ask(sentinel, &["SENTINEL", "MASTER", NAME]).await;
            let flags = words.iter().position(|word| word == "flags").map(|at| &*words[at + 1]);
            flags == Some("master")
        })
        .await;
    }
    let hosts: Vec<String> =
        ports.iter().map(|port| format!("127.0.0.1:{}", port.number())).collect();
    let mut stores = Stores::on(&redis.url(), None).await;
    stores.redis_url = format!(
        "rediss-sentinel://{}@{}/{NAME}?sentinel_password={}",
        login(&redis),
        hosts.join(","),
        redis.password()
    );
    signed.serve(&stores).await;
}

#[tokio::test]
async fn all_nodes_of_a_cluster_are_reached_over_tls() {
    let signed = Signed::new().await;
    let (mut nodes, mut ports) = (Vec::new(), Vec::new());
    for (number, (first, last)) in [("0", "8191"), ("8192", "16383")].into_iter().enumerate() {
        let port = free_port();
        let settings = [signed.settings(&port), vec!["tls-cluster yes".to_owned()]].concat();
        let place = directory(&format!("node-{number}")).await;
        let node = RedisServer::cluster_node(&place, &redis_users(), &settings).await;
        let node = node.expect("a node starts");
        tell(&node, &["CLUSTER", "ADDSLOTSRANGE", first, last]).await;
        ports.push(port);
        nodes.push(node);
    }
    let bus = nodes[1].bus_port().unwrap().to_string();
    tell(&nodes[0], &["CLUSTER", "MEET", "127.0.0.1", &ports[1].number().to_string(), &bus]).await;
    for node in &nodes {
        until("the cluster is whole", async || {
            let info: String = ask(node, &["CLUSTER", "INFO"]).await;
            info.contains("cluster_state:ok") && info.contains("cluster_size:2")
        })
        .await;
    }
    let url = |scheme: &str, port: u16| {
        format!("{scheme}-cluster://{}@127.0.0.1:{port}", login(&nodes[0]))
    };
    let mut stores = Stores::on(&url("redis", nodes[0].port()), None).await;
    stores.redis_url = url("rediss", ports[0].number());
    signed.serve(&stores).await;
    for node in &nodes {
        let keys: Vec<String> = ask(node, &["KEYS", "*:stream"]).await;
        assert!(!keys.is_empty());
    }
}
