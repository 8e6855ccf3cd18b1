//! Health of Redis: settings, clock, memory, disk and clients. Never changes anything, never scans
//! keys.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use redis::aio::MultiplexedConnection;

use super::{Error, Streams, Unsafe, safety, server};

/// Measurements of the latency; the smallest counts.
const PINGS: usize = 3;
/// Seconds after which a replica that has said nothing does not count.
const REPLICA_SILENT: u64 = 5;

/// Facts about Redis for `paystream doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisVitals {
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

    /// Replicas that are in step: they have said lately how far they are, as they do each second.
    pub fn replicas(&self) -> u64 {
        let lines = self.info.iter().filter(|(name, _)| {
            name.strip_prefix("slave").is_some_and(|number| number.parse::<u16>().is_ok())
        });
        let is_in_step = |line: &str| {
            let field = |name: &str| line.split(',').find_map(|one| one.strip_prefix(name));
            let lag = field("lag=").and_then(|lag| lag.parse::<u64>().ok());
            field("state=") == Some("online") && lag.is_some_and(|lag| lag <= REPLICA_SILENT)
        };
        lines.map(|(_, line)| u64::from(is_in_step(line))).sum()
    }
}

impl Streams {
    /// Reads the facts of each server over a connection of its own, or why it does not answer, by its
    /// name.
    pub async fn vitals(&self) -> Result<Vec<(String, Result<RedisVitals, Error>)>, Error> {
        self.ask_each("doctor", |line| self.vitals_of(line)).await
    }

    async fn vitals_of(&self, mut connection: MultiplexedConnection) -> Result<RedisVitals, Error> {
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
            latency,
            now: now.ok_or(Error::Shape("TIME"))?,
            info: server::info(&mut connection, &[]).await?,
            unsafe_settings: safety::unsafe_settings(&mut connection, in_cluster).await?,
            directory: safety::setting(&mut connection, "dir").await?,
        })
    }

    /// Whether Redis is on this machine, as far as its address tells.
    pub fn is_local(&self) -> bool {
        self.servers.address().nodes.iter().all(|node| {
            // A socket has no port.
            node.port == 0 || matches!(node.host.as_str(), "localhost" | "127.0.0.1" | "::1")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_counts_while_it_is_online_and_says_how_far_it_is() {
        let vitals = |lines: &[(&str, &str)]| RedisVitals {
            latency: Duration::ZERO,
            now: DateTime::UNIX_EPOCH,
            info: lines
                .iter()
                .map(|(name, line)| ((*name).to_owned(), (*line).to_owned()))
                .collect(),
            unsafe_settings: Unsafe::default(),
            directory: None,
        };
        let line = |state: &str, lag: u64| {
            format!("ip=127.0.0.1,port=7001,state={state},offset=42,lag={lag}")
        };
        let count = |state: &str, lag: u64| vitals(&[("slave0", &line(state, lag))]).replicas();
        assert_eq!([count("online", 0), count("online", 5), count("online", 6)], [1, 1, 0]);
        assert_eq!(count("wait_bgsave", 0), 0);
        let two = [("slave0", &*line("online", 1)), ("slave10", &line("online", 1))];
        assert_eq!(vitals(&two).replicas(), 2);
        assert_eq!(vitals(&[("slave_read_only", "1"), ("connected_slaves", "3")]).replicas(), 0);
    }
}
