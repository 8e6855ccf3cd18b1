//! Starts a private Redis and a private PostgreSQL as child processes.
//!
//! `paystream dev` and the integration tests run on them, so neither needs a
//! service, a container or a configured machine. Everything lives in one
//! directory; a later start finds the data again.
//!
//! What holds, by construction:
//! - A server never outlives the program that started it, not even under
//!   `kill -9`: a guardian holds a pipe from us and stops the server when the
//!   pipe closes.
//! - One directory has one user at a time: a lock file refuses the second.
//! - No other account of the machine gets in: each server has a random password, kept
//!   in files with mode 600 in folders with mode 700, and inherits nothing of our
//!   environment.
//! - A Redis answer is on disk (`appendfsync always`), a commit is too
//!   (`synchronous_commit`, `fsync`): `kill -9` loses nothing acknowledged.
//!
//! This room never speaks SQL, knows no key or table of ours, touches no server
//! that it did not start itself, and is not for production.

mod port;
mod place;
mod account;
mod secret;
mod ps;
mod guardian;
mod greeting;
mod server;
mod redis_server;
mod cluster;
mod postgres_server;
#[cfg(test)]
mod tests;

use std::fs;
use std::future::pending;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::signal::{
    ctrl_c,
    unix::{SignalKind, signal},
};

pub use port::Port;
pub use postgres_server::PostgresServer;
pub use redis_server::RedisServer;
pub use server::Server;

/// The database that every private PostgreSQL has.
pub const DATABASE: &str = "paystream";

const ADDRESSES_FILE: &str = "addresses.json";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Both private servers of one directory.
///
/// Dropping this stops them too, but does not wait for it; [`Servers::stop`]
/// does.
pub struct Servers {
    pub redis: RedisServer,
    /// The ledger's server.
    pub postgres: PostgresServer,
}

/// Where the running servers of a directory are found, with their passwords.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
pub struct Addresses {
    /// `redis://user:password@127.0.0.1:port/`
    pub redis_url: String,
    /// `postgres://user:password@127.0.0.1:port/paystream`
    pub database_url: String,
}

impl Servers {
    /// Starts both servers in `directory`, which is made if it is missing.
    ///
    /// Returns when both answer. Refuses when another live program uses the
    /// directory; waits for servers of an earlier run that are still stopping. Redis has
    /// these users, as of [`RedisServer::start`].
    pub async fn start(directory: &Path, users: &[(&str, String)]) -> Result<Servers> {
        let (redis, postgres) = tokio::try_join!(
            RedisServer::start(directory, users),
            PostgresServer::start(directory)
        )?;
        Ok(Servers { redis, postgres })
    }

    /// Where the servers are, for a user that both have.
    pub fn addresses(&self, user: &str) -> Addresses {
        Addresses {
            redis_url: self.redis.url_of(user),
            database_url: self.postgres.url_of(user, DATABASE),
        }
    }

    /// Lets commands in other terminals find the servers by [`running_addresses`].
    pub fn announce(&self, addresses: &Addresses) -> Result<()> {
        addresses.write(&self.redis.place.directory)
    }

    /// Stops both servers cleanly and waits until they have ended.
    pub async fn stop(mut self) -> Result<()> {
        let (redis, postgres) = tokio::join!(self.redis.stop(), self.postgres.stop());
        let file = self.redis.place.directory.join(ADDRESSES_FILE);
        place::unless_missing(fs::remove_file(&file))
            .with_context(|| format!("could not remove {}", file.display()))?;
        redis.and(postgres)
    }
}

impl Addresses {
    fn write(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        secret::write(&directory.join(ADDRESSES_FILE), &text, None)
    }
}

/// Where the servers of `directory` are, if both accept connections now.
///
/// Lets an operator's command in another terminal find the private servers. A
/// file left behind by a crash is not believed.
pub fn running_addresses(directory: &Path) -> Option<Addresses> {
    let text = fs::read(directory.join(ADDRESSES_FILE)).ok()?;
    let addresses: Addresses = serde_json::from_slice(&text).ok()?;
    let both = accepts(&addresses.redis_url) && accepts(&addresses.database_url);
    both.then_some(addresses)
}

/// Removes what the servers of `directory` kept, wherever it is.
///
/// Everything in it is lost. Refuses while a live program uses the directory.
pub async fn remove(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    redis_server::remove(directory).await?;
    postgres_server::remove(directory).await?;
    let file = directory.join(ADDRESSES_FILE);
    place::unless_missing(fs::remove_file(&file))
        .with_context(|| format!("could not remove {}", file.display()))
}

/// Returns when somebody wants this program to end, so that it can drop what it has started.
pub async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return pending().await };
    tokio::select! {
        _ = ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn accepts(url: &str) -> bool {
    authority(url)
        .and_then(|address| address.parse::<SocketAddr>().ok())
        .is_some_and(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok())
}

/// `127.0.0.1:20001` of `postgres://user:password@127.0.0.1:20001/paystream`.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    host.rsplit('@').next()
}
