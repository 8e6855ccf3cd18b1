//! How Redis itself is: settings, clock, memory, disk, clients, and whether our
//! streams are there. Never changes anything, never scans keys.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use redis::{Pipeline, aio::ConnectionLike};

use super::{Error, GROUP, Standing, Streams, Unsafe, safety, standing};

/// How often the way there is measured; the quickest counts.
const PINGS: usize = 3;

/// What `paystream doctor` wants to know of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisVitals {
    /// The quickest of a few questions and answers.
    pub latency: Duration,
    pub now: DateTime<Utc>,
    /// Its version, such as `7.0.15`.
    pub version: String,
    /// It reads its data and answers nothing else meanwhile.
    pub loading: bool,
    /// It copies another Redis, and takes no writes.
    pub replica: bool,
    /// What must not be trusted with payments.
    pub unsafe_settings: Unsafe,
    /// Memory in use, in bytes,
    pub memory_used: u64,
    /// and how much it may use: its own limit, or the machine's memory.
    pub memory_max: u64,
    /// Whether it has a limit of its own.
    pub memory_limited: bool,
    /// Whether its last write to the append-only file succeeded,
    pub append_ok: bool,
    /// and the last time it wrote that file anew,
    pub rewrite_ok: bool,
    /// and its last snapshot.
    pub snapshot_ok: bool,
    /// Connections, and how many there may be.
    pub clients: u64,
    /// How many there may be.
    pub clients_max: u64,
    /// Connections it has refused since it started.
    pub rejected: u64,
    /// Where it keeps its data; nothing when this user may not ask.
    pub directory: Option<String>,
}

/// What there is of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    pub partition: u16,
    /// Whether its stream exists,
    pub stream: bool,
    /// and our group on it.
    pub group: bool,
    /// Entries in the stream, settled ones included.
    pub length: i64,
}

impl Streams {
    /// Asks Redis how it is, over a connection of its own.
    pub async fn vitals(&self) -> Result<RedisVitals, Error> {
        let mut connection = self.connect("doctor").await?;
        let mut latency = Duration::MAX;
        for _ in 0..PINGS {
            let asked = Instant::now();
            redis::cmd("PING").exec_async(&mut connection).await?;
            latency = latency.min(asked.elapsed());
        }
        let (seconds, microseconds): (i64, u32) =
            redis::cmd("TIME").query_async(&mut connection).await?;
        let now = DateTime::from_timestamp(seconds, microseconds.saturating_mul(1_000));
        let info = info(&mut connection, None).await?;
        let number = |name: &str| info.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let ok = |name: &str| info.get(name).is_none_or(|status| status == "ok");
        let (own_limit, machine) = (number("maxmemory"), number("total_system_memory"));
        Ok(RedisVitals {
            latency,
            now: now.ok_or(Error::Shape("TIME"))?,
            version: info.get("redis_version").cloned().unwrap_or_default(),
            loading: number("loading") == 1,
            replica: info.get("role").is_some_and(|role| role != "master"),
            unsafe_settings: safety::unsafe_settings(&mut connection).await?,
            memory_used: number("used_memory"),
            memory_max: if own_limit == 0 { machine } else { own_limit },
            memory_limited: own_limit != 0,
            append_ok: ok("aof_last_write_status"),
            rewrite_ok: ok("aof_last_bgrewrite_status"),
            snapshot_ok: ok("rdb_last_bgsave_status"),
            clients: number("connected_clients"),
            clients_max: number("maxclients"),
            rejected: number("rejected_connections"),
            directory: safety::setting(&mut connection, "dir").await?,
        })
    }

    /// What there is of each partition, and where every group stands on it.
    pub async fn presence(&self) -> Result<Vec<(Presence, Vec<Standing>)>, Error> {
        let mut connection = self.connect("doctor").await?;
        let mut lengths = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            lengths.cmd("XLEN").arg(self.keys.stream(partition));
        }
        let lengths: Vec<i64> = lengths.query_async(&mut connection).await?;
        let standings = standing::on_each(&self.keys, &mut connection).await?;
        let one = |((partition, length), standings): ((u16, i64), Result<Vec<Standing>, _>)| {
            let (stream, standings) = match standings {
                Err(Error::StateLost(_)) => (false, Vec::new()),
                standings => (true, standings?),
            };
            let group = standings.iter().any(|one| one.group == GROUP);
            Ok((Presence { partition, stream, group, length }, standings))
        };
        (0..).zip(lengths).zip(standings).map(one).collect()
    }

    /// Whether Redis is on this machine, as far as its address tells.
    pub fn is_local(&self) -> bool {
        match self.client.get_connection_info().addr() {
            redis::ConnectionAddr::Tcp(host, _) | redis::ConnectionAddr::TcpTls { host, .. } => {
                matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1")
            }
            redis::ConnectionAddr::Unix(_) => true,
            _ => false,
        }
    }
}

/// What `INFO` says, of one section or of all, by name.
pub(super) async fn info(
    connection: &mut impl ConnectionLike,
    section: Option<&str>,
) -> Result<HashMap<String, String>, Error> {
    let text: String = redis::cmd("INFO").arg(section).query_async(connection).await?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}
