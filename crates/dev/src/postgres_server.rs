//! A private PostgreSQL that has one database, and keeps what it committed.
//!
//! Never acknowledges a commit before it is on disk, never listens anywhere
//! but on this machine, and never answers without its password.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};

use super::cluster::Cluster;
use super::guardian::Launch;
use super::place::Place;
use super::probe::Protocol;
use super::server::{Recipe, Server};

/// The superuser.
pub(super) const USER: &str = "paystream";

/// Settings that differ from PostgreSQL's own, given on the command line so
/// that a directory of an older version of ours gets them too.
const SETTINGS: [&str; 11] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=256MB",
    "max_wal_size=2GB",
    "checkpoint_timeout=15min",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "timezone=UTC",
    "log_timezone=UTC",
];

/// A private PostgreSQL. Dropping it stops it, but does not wait for it.
pub struct PostgresServer {
    server: Server,
    cluster: Cluster,
    password: String,
}

impl PostgresServer {
    /// Starts PostgreSQL in `directory`, on the port of last time if it is free.
    pub async fn start(directory: &Path) -> Result<PostgresServer> {
        let (place, recipe, cluster, password) = prepare(directory).await?;
        let server = Server::start(place, recipe).await.context("could not start PostgreSQL")?;
        Ok(PostgresServer { server, cluster, password })
    }

    /// `postgres://paystream:password@127.0.0.1:port/database`; this machine only.
    /// [`super::DATABASE`] exists from the start.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port())
    }

    /// The port, the same across restarts.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The postmaster's process id, of the latest start.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Where the data really is: under `/var/tmp` when we are root and an
    /// ordinary account cannot reach the directory that was asked for.
    pub fn data_directory(&self) -> &Path {
        &self.cluster.data
    }

    /// Stops PostgreSQL cleanly (a fast shutdown) and waits for its end.
    pub async fn stop(&mut self) -> Result<()> {
        self.server.stop().await
    }

    /// `kill -9` for the postmaster and all its children; returns when they
    /// are gone, so that nobody holds the shared memory.
    pub async fn kill(&mut self) -> Result<()> {
        self.server.kill().await
    }

    /// Starts it again, stopping it first if it runs: same port, same data.
    ///
    /// Returns when it has recovered and accepts connections. If somebody
    /// killed only the postmaster, its orphans are seen off first.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.cluster.clear_leftovers().await?;
        self.server.restart().await.context("could not restart PostgreSQL")
    }
}

async fn prepare(directory: &Path) -> Result<(Place, Recipe, Cluster, String)> {
    let place = Place::take(directory, "postgres").await?;
    let cluster = Cluster::locate(&place).await?;
    cluster.clear_leftovers().await?;
    let password = cluster.initialise().await?;
    let mut arguments: Vec<OsString> = vec!["-D".into(), cluster.data.clone().into()];
    let named = format!("cluster_name={}", cluster.title);
    let compressed = format!("wal_compression={}", cluster.compression().await?);
    for setting in SETTINGS.into_iter().chain([named.as_str(), compressed.as_str()]) {
        arguments.extend(["-c".into(), setting.into()]);
    }
    let launch = Launch {
        program: cluster.program("postgres"),
        arguments,
        directory: cluster.data.clone(),
        account: cluster.account,
        stop_signal: "INT",
    };
    let recipe =
        Recipe { name: "PostgreSQL", protocol: Protocol::Postgres, port_flag: "-p", launch };
    Ok((place, recipe, cluster, password))
}

/// Removes everything that PostgreSQL kept for `directory`.
pub(super) async fn remove(directory: &Path) -> Result<()> {
    let place = Place::take(directory, "postgres").await?;
    let cluster = Cluster::locate(&place).await?;
    cluster.clear_leftovers().await?;
    cluster.remove()?;
    place.remove()
}
