//! The servers of Redis as the storm has them: one, a master with a replica and Sentinels, or a
//! cluster of three masters with a replica each. Knows which of them takes commands, and asks it past
//! every fault. Never reads what paystream wrote.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use paystream_dev::RedisServer;
use redis::{AsyncConnectionConfig, FromRedisValue, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::{
    args::Topology,
    clock::Clocks,
    proxy::{Line, Proxy},
};

/// How long the storm itself waits for a server that is there.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits for one that may be frozen.
const ROLE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the servers may take to be one group.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
/// What Sentinels call the master.
const NAME: &str = "storm";
const SENTINELS: usize = 3;
const MASTERS: usize = 3;
const SLOTS: usize = 16_384;

/// One server of Redis. Whoever does something to it holds its lock.
pub(crate) struct Node {
    pub(crate) server: Mutex<RedisServer>,
    /// Where it really is.
    pub(crate) port: u16,
    /// Where the others and all clients find it.
    pub(crate) announced: u16,
    url: String,
}

/// What a server says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Master,
    /// Of the server that announces this port.
    ReplicaOf(u16),
    /// It does not say.
    Away,
}

impl Node {
    pub(crate) async fn role(&self) -> Role {
        role(&self.url).await.unwrap_or(Role::Away)
    }
}

pub(crate) struct Nodes {
    pub(crate) topology: Topology,
    pub(crate) all: Vec<Node>,
    sentinels: Vec<RedisServer>,
    pub(crate) password: String,
    /// What the servers keep is in these.
    directories: Vec<PathBuf>,
}

impl Nodes {
    /// Starts them; where there are several, with the network before each.
    pub(crate) async fn start(
        topology: Topology,
        folder: &Path,
        users: &[(&str, String)],
        password: &str,
        clocks: &Clocks,
    ) -> Result<(Self, Vec<Line>)> {
        let (mut all, mut lines, mut directories) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=count(topology) {
            let name = format!("redis-{number}");
            let directory = take(folder, &name, password)?;
            let mut server = match topology {
                Topology::Cluster => RedisServer::cluster_node(&directory, users, &[]).await?,
                Topology::Single | Topology::Sentinel => {
                    RedisServer::start(&directory, users).await?
                }
            };
            clocks.give(&name, &mut server).await?;
            directories.push(directory);
            let (port, url) = (server.port(), server.url());
            let mut announced = port;
            if topology != Topology::Single {
                let proxy = Proxy::before(port).await?;
                announced = proxy.port;
                lines.push(Line::new(format!("everybody to Redis {number}"), vec![proxy]));
            }
            all.push(Node { server: Mutex::new(server), port, announced, url });
        }
        let password = password.to_owned();
        let mut nodes = Self { topology, all, sentinels: Vec::new(), password, directories };
        match topology {
            Topology::Single => {}
            Topology::Sentinel => nodes.watch_over(folder).await?,
            Topology::Cluster => nodes.join().await?,
        }
        Ok((nodes, lines))
    }

    /// Makes one server the replica of the other, and has Sentinels watch over them.
    async fn watch_over(&mut self, folder: &Path) -> Result<()> {
        let master = self.all[0].announced;
        for (at, node) in self.all.iter().enumerate() {
            let own = node.announced.to_string();
            self.tell(at, &["CONFIG", "SET", "replica-announce-port", &own]).await?;
            if at > 0 {
                self.tell(at, &["REPLICAOF", "127.0.0.1", &master.to_string()]).await?;
            }
            self.tell(at, &["CONFIG", "REWRITE"]).await?;
        }
        for number in 1..=SENTINELS {
            let directory = take(folder, &format!("sentinel-{number}"), &self.password)?;
            self.sentinels.push(RedisServer::sentinel(&directory, NAME, master, &[]).await?);
            self.directories.push(directory);
        }
        let others = (SENTINELS - 1).to_string();
        for sentinel in &self.sentinels {
            until("Sentinels know each other and the replica", async || {
                let mut connection = connect(&sentinel.url(), PATIENCE).await?;
                let known: HashMap<String, String> = redis::cmd("SENTINEL")
                    .arg(&["MASTER", NAME])
                    .query_async(&mut connection)
                    .await?;
                let has =
                    |field: &str, wanted: &str| known.get(field).is_some_and(|is| is == wanted);
                Ok(has("num-slaves", "1") && has("num-other-sentinels", &others))
            })
            .await?;
        }
        Ok(())
    }

    /// Makes a cluster of them, in which the second half are replicas.
    async fn join(&self) -> Result<()> {
        let first_bus = self.bus(0).await?;
        let first = self.all[0].announced.to_string();
        for (at, node) in self.all.iter().enumerate() {
            let own = node.announced.to_string();
            self.tell(at, &["CONFIG", "SET", "cluster-announce-port", &own]).await?;
            self.tell(at, &["CONFIG", "SET", "cluster-announce-bus-port", &self.bus(at).await?])
                .await?;
            self.tell(at, &["CONFIG", "REWRITE"]).await?;
            self.tell(at, &["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await?;
            if at < MASTERS {
                let first = (SLOTS * at / MASTERS).to_string();
                let last = (SLOTS * (at + 1) / MASTERS - 1).to_string();
                self.tell(at, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
            }
            if at > 0 {
                self.tell(at, &["CLUSTER", "MEET", "127.0.0.1", &first, &first_bus]).await?;
            }
        }
        for at in MASTERS..self.all.len() {
            let master: String = self.ask(at - MASTERS, &["CLUSTER", "MYID"]).await?;
            until("a replica knows its master", async || {
                Ok(self.tell(at, &["CLUSTER", "REPLICATE", &master]).await.is_ok())
            })
            .await?;
        }
        for at in 0..self.all.len() {
            until("the cluster is whole", async || {
                let info: String = self.ask(at, &["CLUSTER", "INFO"]).await?;
                let replication: String = self.ask(at, &["INFO", "replication"]).await?;
                let is_up = replication.contains("state=online")
                    || replication.contains("master_link_status:up");
                Ok(is_up && info.contains("cluster_state:ok"))
            })
            .await?;
        }
        Ok(())
    }

    async fn bus(&self, at: usize) -> Result<String> {
        let bus = self.all[at].server.lock().await.bus_port();
        Ok(bus.context("a node without a bus")?.to_string())
    }

    /// The URL for a user; `port` where each process has its own way to the one server.
    pub(crate) fn url(&self, user: &str, port: u16) -> String {
        let Self { password, .. } = self;
        let hosts = |ports: &mut dyn Iterator<Item = u16>| {
            ports.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
        };
        match self.topology {
            Topology::Single => format!("redis://{user}:{password}@127.0.0.1:{port}/"),
            Topology::Sentinel => {
                let hosts = hosts(&mut self.sentinels.iter().map(|one| one.port()));
                format!(
                    "redis-sentinel://{user}:{password}@{hosts}/{NAME}?sentinel_password={password}"
                )
            }
            Topology::Cluster => {
                let hosts = hosts(&mut self.all.iter().map(|node| node.announced));
                format!("redis-cluster://{user}:{password}@{hosts}")
            }
        }
    }

    /// A connection of the storm's own to a server, as administrator.
    pub(crate) async fn connect(&self, at: usize) -> Result<MultiplexedConnection> {
        connect(&self.node(at)?.url, PATIENCE).await
    }

    pub(crate) fn node(&self, at: usize) -> Result<&Node> {
        self.all.get(at).with_context(|| format!("there is no Redis {}", at + 1))
    }

    /// The answer of one server to a command.
    pub(crate) async fn ask<T: FromRedisValue>(&self, at: usize, words: &[&str]) -> Result<T> {
        let mut connection = self.connect(at).await?;
        let (name, rest) = words.split_first().context("a command without words")?;
        let answer = redis::cmd(name).arg(rest).query_async(&mut connection).await;
        answer.with_context(|| format!("Redis {} refused {}", at + 1, words.join(" ")))
    }

    pub(crate) async fn tell(&self, at: usize, words: &[&str]) -> Result<()> {
        self.ask::<Value>(at, words).await.map(drop)
    }

    /// What a server takes for the time, in seconds since 1970.
    pub(crate) async fn time(&self, at: usize) -> Result<i64> {
        self.ask::<(i64, i64)>(at, &["TIME"]).await.map(|(seconds, _)| seconds)
    }

    /// What each of them is, by its own words.
    pub(crate) async fn roles(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        for node in &self.all {
            roles.push(node.role().await);
        }
        roles
    }

    /// Those that take commands: of a cluster the masters, else the one that Sentinels name.
    pub(crate) async fn masters(&self) -> Result<Vec<usize>> {
        if self.topology == Topology::Single {
            return Ok(vec![0]);
        }
        let roles = self.roles().await;
        let says_so = (0..).zip(&roles).filter(|(_, role)| **role == Role::Master);
        let mut masters: Vec<usize> = says_so.map(|(at, _)| at).collect();
        if let Some(sentinel) = self.sentinels.first() {
            let mut connection = connect(&sentinel.url(), PATIENCE).await?;
            let named: (String, u16) = redis::cmd("SENTINEL")
                .arg(&["GET-MASTER-ADDR-BY-NAME", NAME])
                .query_async(&mut connection)
                .await?;
            masters.retain(|at| self.all[*at].announced == named.1);
        }
        Ok(masters)
    }

    /// The one that takes commands for this key. There may be none for a moment.
    pub(crate) async fn master_of(&self, key: &str) -> Result<usize> {
        let slot = match self.topology {
            Topology::Single | Topology::Sentinel => None,
            Topology::Cluster => Some(self.slot_of(key).await?),
        };
        let takes = async |at| match slot {
            None => true,
            // One that does not answer has none.
            Some(slot) => self.has(at, slot).await.unwrap_or(false),
        };
        let end = Instant::now() + PATIENCE;
        loop {
            for at in self.masters().await? {
                if takes(at).await {
                    return Ok(at);
                }
            }
            if Instant::now() > end {
                bail!("no Redis takes commands for {key}");
            }
            sleep(PAUSE).await;
        }
    }

    pub(crate) async fn slot_of(&self, key: &str) -> Result<u16> {
        let masters = self.masters().await?;
        let at = masters.first().context("no Redis takes commands")?;
        self.ask(*at, &["CLUSTER", "KEYSLOT", key]).await
    }

    /// Whether a server says that it has this slot itself.
    async fn has(&self, at: usize, slot: u16) -> Result<bool> {
        let ranges: Vec<(u16, u16, Vec<Value>)> = self.ranges(at).await?;
        let own = self.node(at)?.announced;
        Ok(ranges.iter().any(|(first, last, server)| {
            let port = server.get(1).and_then(|port| u16::from_redis_value_ref(port).ok());
            (*first..=*last).contains(&slot) && port == Some(own)
        }))
    }

    /// First and last slot of each range, and its master, as a server knows them.
    async fn ranges(&self, at: usize) -> Result<Vec<(u16, u16, Vec<Value>)>> {
        let ranges: Vec<Vec<Value>> = self.ask(at, &["CLUSTER", "SLOTS"]).await?;
        let range = |range: Vec<Value>| {
            let mut words = range.into_iter();
            let mut word = || words.next().context("a range that is too short");
            let (first, last, master) = (word()?, word()?, word()?);
            let number = |value| u16::from_redis_value(value);
            Ok((number(first)?, number(last)?, Vec::from_redis_value(master)?))
        };
        ranges.into_iter().map(range).collect()
    }

    /// Has a replica promoted, whose master is well; what was done.
    pub(crate) async fn fail_over(&self, draw: u32) -> Result<String> {
        if let Some(sentinel) = self.sentinels.first() {
            let mut connection = connect(&sentinel.url(), PATIENCE).await?;
            let failover = redis::cmd("SENTINEL").arg(&["FAILOVER", NAME]).to_owned();
            let answer: Result<Value, _> = failover.query_async(&mut connection).await;
            // It may be under way, or no replica may be good enough now.
            return Ok(answer.map_or_else(|error| format!("no: {error}"), |_| "begun".to_owned()));
        }
        let roles = self.roles().await;
        let replica = |at: &usize| matches!(roles[*at], Role::ReplicaOf(_));
        let replicas: Vec<usize> = (0..roles.len()).filter(replica).collect();
        let Some(at) = replicas.get(usize::try_from(draw)? % replicas.len().max(1)) else {
            return Ok("no: there is no replica".to_owned());
        };
        let failover = self.tell(*at, &["CLUSTER", "FAILOVER"]).await;
        let what = failover.map_or_else(|error| format!("no: {error:#}"), |()| "begun".to_owned());
        Ok(format!("Redis {}: {what}", at + 1))
    }

    /// Stops all; what they kept goes, but their logs.
    pub(crate) async fn stop(self) -> Result<()> {
        for node in self.all {
            node.server.into_inner().stop().await?;
        }
        for mut sentinel in self.sentinels {
            sentinel.stop().await?;
        }
        discard(&self.directories, "redis").await
    }
}

/// How many servers of Redis there are.
pub(crate) fn count(topology: Topology) -> usize {
    match topology {
        Topology::Single => 1,
        Topology::Sentinel => 2,
        Topology::Cluster => 2 * MASTERS,
    }
}

/// Removes what stopped servers kept, but their logs.
pub(crate) async fn discard(directories: &[PathBuf], server: &str) -> Result<()> {
    for directory in directories {
        let log = directory.with_extension("log");
        // Where there is one. It may be on another disk.
        let _kept_or_not = fs::copy(directory.join(server).join("log"), log);
        paystream_dev::remove(directory).await?;
    }
    Ok(())
}

/// A directory for a server, whose password is set.
fn take(folder: &Path, name: &str, password: &str) -> Result<PathBuf> {
    let directory = folder.join("servers").join(name);
    let home = directory.join("redis");
    fs::create_dir_all(&home)
        .and_then(|()| fs::write(home.join("password"), password))
        .with_context(|| format!("could not write to {}", home.display()))?;
    Ok(directory)
}

async fn connect(url: &str, patience: Duration) -> Result<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience));
    let client = redis::Client::open(url)?;
    let connection = client.get_multiplexed_async_connection_with_config(&patient).await;
    connection.context("the storm could not connect to Redis")
}

pub(crate) async fn role(url: &str) -> Result<Role> {
    let mut connection = connect(url, ROLE_TIMEOUT).await?;
    let said: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
    let text = |at: usize| said.get(at).and_then(|word| String::from_redis_value_ref(word).ok());
    Ok(match text(0).as_deref() {
        Some("master") => Role::Master,
        Some("slave") => Role::ReplicaOf(text(2).context("a replica of nobody")?.parse()?),
        _ => Role::Away,
    })
}

async fn until(what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + READY_TIMEOUT;
    loop {
        let found = is_so().await;
        if matches!(found, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("it did not come about that {what}: {found:?}");
        }
        sleep(PAUSE).await;
    }
}
