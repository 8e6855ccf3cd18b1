//! Health of Redis: settings, clock, memory, disk, clients, and presence of the streams. Never
//! changes anything, never scans keys.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use redis::{Pipeline, aio::MultiplexedConnection};

use super::{Error, GROUP, GroupPosition, Streams, Unsafe, positions, safety, server};

/// Measurements of the latency; the smallest counts.
const PINGS: usize = 3;

/// Facts about Redis for `paystream doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisVitals {
    /// The name of the server, where there are several.
    pub server: Option<String>,
    /// The smallest of three round trips.
    pub latency: Duration,
    pub now: DateTime<Utc>,
    /// Fields of `INFO` by name.
    pub info: HashMap<String, String>,
    pub unsafe_settings: Unsafe,
    /// The data directory; none when the ACL forbids reading it.
    pub directory: Option<String>,
}

impl RedisVitals {
    /// A field of `INFO`; empty where this Redis has none.
    pub fn text(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    /// A field of `INFO` that is a number; 0 where this Redis has none.
    pub fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// Replicas that are connected.
    pub fn replicas(&self) -> u64 {
        self.number("connected_slaves")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    pub partition: u16,
    pub stream: bool,
    /// Whether our group exists.
    pub group: bool,
    /// Entries in the stream, settled ones included.
    pub length: i64,
}

impl Streams {
    /// Reads the facts of each server over a connection of its own.
    pub async fn vitals(&self) -> Result<Vec<RedisVitals>, Error> {
        let lines = self.connect("doctor").await?;
        let mut all = Vec::new();
        for (name, line) in lines.each().await? {
            let server = self.servers.is_cluster().then_some(name);
            all.push(self.vitals_of(server, line.connection.clone()).await?);
        }
        Ok(all)
    }

    async fn vitals_of(
        &self,
        server: Option<String>,
        mut connection: MultiplexedConnection,
    ) -> Result<RedisVitals, Error> {
        let mut latency = Duration::MAX;
        for _ in 0..PINGS {
            let asked = Instant::now();
            redis::cmd("PING").exec_async(&mut connection).await?;
            latency = latency.min(asked.elapsed());
        }
        let (seconds, microseconds): (i64, u32) =
            redis::cmd("TIME").query_async(&mut connection).await?;
        let now = DateTime::from_timestamp(seconds, microseconds.saturating_mul(1_000));
        let in_cluster = self.servers.is_cluster();
        Ok(RedisVitals {
            server,
            latency,
            now: now.ok_or(Error::Shape("TIME"))?,
            info: server::info(&mut connection, &[]).await?,
            unsafe_settings: safety::unsafe_settings(&mut connection, in_cluster).await?,
            directory: safety::setting(&mut connection, "dir").await?,
        })
    }

    /// Presence of each partition, and the positions of all groups on it.
    pub async fn presence(&self) -> Result<Vec<(Presence, Vec<GroupPosition>)>, Error> {
        let mut connection = self.connect("doctor").await?;
        let mut lengths = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            lengths.cmd("XLEN").arg(self.keys.stream(partition));
        }
        let lengths: Vec<i64> = lengths.query_async(&mut connection).await?;
        let positions = positions::on_each(&self.keys, &mut connection, None).await?;
        let one =
            |((partition, length), positions): ((u16, i64), Result<Vec<GroupPosition>, _>)| {
                let (stream, positions) = match positions {
                    Err(Error::StateLost(_)) => (false, Vec::new()),
                    positions => (true, positions?),
                };
                let group = positions.iter().any(|one| one.group == GROUP);
                Ok((Presence { partition, stream, group, length }, positions))
            };
        (0..).zip(lengths).zip(positions).map(one).collect()
    }

    /// Whether Redis is on this machine, as far as its address tells.
    pub fn is_local(&self) -> bool {
        self.servers.address().nodes.iter().all(|node| {
            // A socket has no port.
            node.port == 0 || matches!(node.host.as_str(), "localhost" | "127.0.0.1" | "::1")
        })
    }
}
