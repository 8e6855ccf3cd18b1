//! A private Redis that keeps everything it has answered for.
//!
//! Never evicts, never answers before the append-only file is on disk, never
//! listens anywhere but on this machine, and never answers without its password.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cluster::find_program;
use super::guardian::Launch;
use super::place::Place;
use super::probe::Protocol;
use super::ps::Living;
use super::secret;
use super::server::{Recipe, Server, clear_leftovers};

const PROGRAM: &str = "redis-server";

/// Every setting that differs from Redis' own; the file is rewritten when it
/// has doubled, as always.
const SETTINGS: [[&str; 2]; 9] = [
    ["--bind", "127.0.0.1"],
    ["--protected-mode", "yes"],
    ["--appendonly", "yes"],
    ["--appendfsync", "always"],
    // Not before there is something to gain: a rewrite costs a core for a while.
    ["--auto-aof-rewrite-min-size", "512mb"],
    ["--save", ""],
    ["--maxmemory-policy", "noeviction"],
    ["--daemonize", "no"],
    ["--tcp-backlog", "128"],
];

/// A private Redis. Dropping it stops it, but does not wait for it.
pub struct RedisServer {
    server: Server,
    data: PathBuf,
    password: String,
}

impl RedisServer {
    /// Starts Redis in `directory`, on the port of last time if it is free.
    pub async fn start(directory: &Path) -> Result<RedisServer> {
        let (place, recipe, data, password) = prepare(directory).await?;
        let server = Server::start(place, recipe).await.context("could not start Redis")?;
        Ok(RedisServer { server, data, password })
    }

    /// `redis://:password@127.0.0.1:port/`; this machine only.
    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}/", self.password, self.port())
    }

    #[cfg(test)]
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// The port, the same across restarts.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The process id of the latest start.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Where Redis keeps its append-only file.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// Stops Redis cleanly and waits for its end.
    pub async fn stop(&mut self) -> Result<()> {
        self.server.stop().await
    }

    /// `kill -9`; returns when it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.server.kill().await
    }

    /// Starts it again, stopping it first if it runs: same port, same data.
    ///
    /// Returns when it answers and has loaded its data.
    pub async fn restart(&mut self) -> Result<()> {
        self.server.restart().await.context("could not restart Redis")
    }

    pub(super) fn directory(&self) -> &Path {
        self.server.directory()
    }
}

async fn prepare(directory: &Path) -> Result<(Place, Recipe, PathBuf, String)> {
    let place = Place::take(directory, "redis").await?;
    let program = find_program(PROGRAM)
        .context("could not find `redis-server`: install Redis (scripts/install.sh does)")?;
    clear(&place).await?;
    let data = place.folder().join("data");
    fs::create_dir_all(&data).with_context(|| format!("could not make {}", data.display()))?;
    let password = secret::password_in(place.folder())?;
    // In a file, since everybody can read a command line.
    let file = place.folder().join("redis.conf");
    // A replica has its primary's password, as anywhere.
    let lines = format!("requirepass {password}\nmasterauth {password}\n");
    secret::write(&file, &lines, None)?;
    let settings = SETTINGS.iter().flatten().map(OsString::from);
    let launch = Launch {
        program,
        arguments: std::iter::once(file.into_os_string()).chain(settings).collect(),
        directory: data.clone(),
        account: None,
        stop_signal: "TERM",
    };
    let protocol = Protocol::Redis { password: password.clone() };
    let recipe = Recipe { name: "Redis", protocol, port_flag: "--port", launch };
    Ok((place, recipe, data, password))
}

/// Ends a Redis of an earlier run: the process id we noted, if that is still a
/// Redis on the port we noted.
async fn clear(place: &Place) -> Result<()> {
    let (Some(pid), Some(port)) = (place.last_pid(), place.last_port()) else { return Ok(()) };
    let port = port.to_string();
    let is_ours = |one: &Living| {
        one.pid == pid && one.command.contains(PROGRAM) && one.command.contains(&port)
    };
    clear_leftovers("Redis", "TERM", place.folder(), is_ours).await
}

/// Removes everything that Redis kept in `directory`.
pub(super) async fn remove(directory: &Path) -> Result<()> {
    let place = Place::take(directory, "redis").await?;
    clear(&place).await?;
    place.remove()
}
