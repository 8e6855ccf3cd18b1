//! The Redis server of a connection: whether it is a primary, and whose history its data
//! continue. Never changes anything.

use std::collections::HashMap;

use redis::{RedisError, RedisResult, aio::ConnectionLike};

/// Sections of `INFO` that say who a server is.
pub(super) const SECTIONS: [&str; 2] = ["server", "replication"];
const NOBODY: &str = "0000000000000000000000000000000000000000";

/// A primary, as it was when the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Primary {
    /// Its run id, and the history that it continues if it was promoted: differs after a
    /// restart, a promotion, or a return to an earlier primary. Not its replication id, which is
    /// replaced when a first replica follows.
    pub(super) identity: String,
    /// It was a replica, so it may lack writes that the primary before it acknowledged.
    pub(super) promoted: bool,
}

impl Primary {
    /// Its run id: another after a restart.
    pub(super) fn run(&self) -> &str {
        self.identity.split(':').next().unwrap_or_default()
    }
}

/// The server of this connection. A replica counts as an outage: connecting again may reach
/// the primary.
pub(super) async fn primary(
    connection: &mut impl ConnectionLike,
    in_cluster: bool,
) -> RedisResult<Primary> {
    primary_of(&info(connection, &SECTIONS).await?, in_cluster)
}

/// The same, from what `INFO` says of [`SECTIONS`].
pub(super) fn read_primary(text: &str) -> RedisResult<Primary> {
    primary_of(&read_info(text), true)
}

fn primary_of(info: &HashMap<String, String>, in_cluster: bool) -> RedisResult<Primary> {
    if let Some(sentence) = as_no_primary(info, in_cluster) {
        return Err(unfit(sentence));
    }
    let run = field(info, "run_id");
    let continued = Some(field(info, "master_replid2")).filter(|id| !matches!(*id, "" | NOBODY));
    let identity = continued.map_or_else(|| run.to_owned(), |id| format!("{run}:{id}"));
    Ok(Primary { identity, promoted: continued.is_some() })
}

/// The error of a connection to a server that must not be given payments; it
/// becomes [`super::Error::Unfit`].
pub(super) fn unfit(why: String) -> RedisError {
    redis::make_extension_error("UNFIT".to_owned(), Some(why))
}

/// The error of a server that is not there; it becomes [`super::Error::Outage`].
pub(super) fn away(why: &str) -> RedisError {
    redis::make_extension_error("AWAY".to_owned(), Some(why.to_owned()))
}

/// The error of an append that is refused without asking the server; it becomes
/// [`super::Error::Resizing`].
pub(super) fn closed(why: &str) -> RedisError {
    redis::make_extension_error("CLOSED".to_owned(), Some(why.to_owned()))
}

/// A sentence, if the server of this connection is a replica, or none that payments are given to
/// by such an address.
pub(super) async fn no_primary(
    connection: &mut impl ConnectionLike,
    in_cluster: bool,
) -> RedisResult<Option<String>> {
    Ok(as_no_primary(&info(connection, &SECTIONS).await?, in_cluster))
}

/// What `INFO` says by name, of these sections or of all.
pub(super) async fn info(
    connection: &mut impl ConnectionLike,
    sections: &[&str],
) -> RedisResult<HashMap<String, String>> {
    let text: String = redis::cmd("INFO").arg(sections).query_async(connection).await?;
    Ok(read_info(&text))
}

pub(super) fn read_info(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn as_no_primary(info: &HashMap<String, String>, in_cluster: bool) -> Option<String> {
    match field(info, "redis_mode") {
        "sentinel" => {
            return Some(
                "it is a Sentinel: begin PAYSTREAM_REDIS_URL with redis-sentinel:// and end it \
                 with the name of the master"
                    .to_owned(),
            );
        }
        "cluster" if !in_cluster => {
            return Some(
                "it is a node of a cluster: begin PAYSTREAM_REDIS_URL with redis-cluster://"
                    .to_owned(),
            );
        }
        _ => {}
    }
    (field(info, "role") != "master").then(|| {
        let (host, port) = (field(info, "master_host"), field(info, "master_port"));
        format!(
            "it is a replica of {host}:{port} and takes no writes. Set PAYSTREAM_REDIS_URL to the \
             primary"
        )
    })
}

fn field<'a>(info: &'a HashMap<String, String>, name: &str) -> &'a str {
    info.get(name).map_or("", String::as_str)
}
