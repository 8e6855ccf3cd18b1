//! A private PostgreSQL that has one database, and keeps what it committed.
//!
//! Never acknowledges a commit before it is on disk, never listens anywhere
//! but on this machine, and never answers without its password.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use anyhow::Result;

use super::cluster::Cluster;
use super::guardian::Launch;
use super::place::ServerFolder;
use super::server::{READY, Recipe, Server};

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

/// A private PostgreSQL.
pub struct PostgresServer {
    server: Server,
    cluster: Cluster,
    password: String,
}

impl Deref for PostgresServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for PostgresServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl PostgresServer {
    /// Starts PostgreSQL in `directory`, on the port of last time if it is free.
    pub async fn start(directory: &Path) -> Result<PostgresServer> {
        let (place, recipe, cluster, password) = prepare(directory).await?;
        Ok(PostgresServer { server: Server::start(place, recipe).await?, cluster, password })
    }

    /// `postgres://paystream:password@127.0.0.1:port/database`, of the superuser; this
    /// machine only. [`super::DATABASE`] exists from the start.
    pub fn url(&self, database: &str) -> String {
        self.url_of(USER, database)
    }

    /// The same of another user, once that has been made with [`PostgresServer::password`].
    pub fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}:{}@127.0.0.1:{}/{database}", self.password, self.port())
    }

    /// Begins anew as a standby of another, as `standby`: with its data and its password. What
    /// this one had is gone.
    pub async fn follow(&mut self, primary: &PostgresServer) -> Result<()> {
        self.kill().await?;
        self.cluster.clear_leftovers().await?;
        self.cluster.copy(&primary.url("postgres")).await?;
        primary.password.clone_into(&mut self.password);
        self.server.restart().await
    }

    /// Hexadecimal digits.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// [`Server::restart`]; orphans of a postmaster that somebody else killed end first.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.cluster.clear_leftovers().await?;
        self.server.restart().await
    }
}

async fn prepare(directory: &Path) -> Result<(ServerFolder, Recipe, Cluster, String)> {
    let place = ServerFolder::take(directory, "postgres").await?;
    let cluster = Cluster::locate(&place).await?;
    cluster.clear_leftovers().await?;
    let password = cluster.initialise().await?;
    let mut arguments: Vec<OsString> = vec!["-D".into(), cluster.data.clone().into()];
    let named = format!("cluster_name={}", cluster.title);
    let compressed = format!("wal_compression={}", cluster.compression().await);
    for setting in SETTINGS.into_iter().chain([named.as_str(), compressed.as_str()]) {
        arguments.extend(["-c".into(), setting.into()]);
    }
    let launch = Launch {
        program: cluster.program("postgres"),
        arguments,
        directory: cluster.data.clone(),
        environment: Vec::new(),
        account: cluster.account,
        stop_signal: "INT",
    };
    let recipe = Recipe { name: "PostgreSQL", port_flag: "-p", ready: READY, launch };
    Ok((place, recipe, cluster, password))
}

/// Removes everything that PostgreSQL kept for `directory`.
pub(super) async fn remove(directory: &Path) -> Result<()> {
    let place = ServerFolder::take(directory, "postgres").await?;
    let cluster = Cluster::locate(&place).await?;
    cluster.clear_leftovers().await?;
    cluster.remove()?;
    place.remove()
}
