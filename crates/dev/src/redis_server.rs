//! A private Redis that keeps everything it has answered for.
//!
//! Never evicts, never answers before the append-only file is on disk, never
//! listens anywhere but on this machine, and never answers without its password.

use std::ffi::OsString;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use anyhow::{Context, Result};

use super::cluster::find_program;
use super::guardian::Launch;
use super::place::ServerFolder;
use super::port::Port;
use super::ps::Living;
use super::secret;
use super::server::{READY, Recipe, Server, clear_leftovers};

const PROGRAM: &str = "redis-server";
/// What a Sentinel logs once it serves.
const SENTINEL_READY: &str = "Sentinel ID is";

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

/// A private Redis.
pub struct RedisServer {
    server: Server,
    password: String,
    /// Where it talks to other nodes of its cluster.
    bus: Option<Port>,
}

impl Deref for RedisServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for RedisServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl RedisServer {
    /// Starts Redis in `directory`, on the port of last time if it is free. Beside the
    /// administrator it has these users, each with its rules as an ACL writes them, and the
    /// same password.
    pub async fn start(directory: &Path, users: &[(&str, String)]) -> Result<RedisServer> {
        Self::start_with(directory, users, None, &[]).await
    }

    /// The same, with more of the settings of redis.conf.
    pub async fn with_settings(
        directory: &Path,
        users: &[(&str, String)],
        more: &[String],
    ) -> Result<RedisServer> {
        Self::start_with(directory, users, None, more).await
    }

    /// Starts a node of a cluster, which has no slots and knows no other node yet.
    pub async fn cluster_node(
        directory: &Path,
        users: &[(&str, String)],
        more: &[String],
    ) -> Result<RedisServer> {
        Self::start_with(directory, users, Some("1500"), more).await
    }

    async fn start_with(
        directory: &Path,
        users: &[(&str, String)],
        node_timeout: Option<&str>,
        more: &[String],
    ) -> Result<RedisServer> {
        let (place, password) = take(directory).await?;
        // A replica has its primary's password, as anywhere.
        let mut lines = format!("requirepass {password}\nmasterauth {password}\n");
        for (user, rules) in users {
            lines.push_str(&format!("user {user} on >{password} {rules}\n"));
        }
        lines.extend(more.iter().map(|line| format!("{line}\n")));
        let mut settings: Vec<OsString> = SETTINGS.iter().flatten().map(OsString::from).collect();
        let mut bus = None;
        if let Some(timeout) = node_timeout {
            let port = bus.insert(Port::choose(None, place.seed().wrapping_add(1))?).number();
            let port = port.to_string();
            let more = ["--cluster-enabled", "yes", "--cluster-port", &port];
            settings.extend(
                more.into_iter().chain(["--cluster-node-timeout", timeout]).map(OsString::from),
            );
        }
        let server = Self::launch(place, password, &lines, settings, READY).await?;
        Ok(RedisServer { bus, ..server })
    }

    /// Starts a Sentinel, which knows the server at this port of this machine as the master
    /// `name` and agrees with two others. All have the password of `directory`.
    pub async fn sentinel(
        directory: &Path,
        name: &str,
        port: u16,
        more: &[String],
    ) -> Result<RedisServer> {
        let (place, password) = take(directory).await?;
        let mut lines = format!(
            "bind 127.0.0.1\nrequirepass {password}\nsentinel monitor {name} 127.0.0.1 {port} 2\n\
             sentinel auth-pass {name} {password}\nsentinel down-after-milliseconds {name} 2000\n\
             sentinel failover-timeout {name} 5000\n"
        );
        lines.extend(more.iter().map(|line| format!("{line}\n")));
        let settings = vec!["--sentinel".into()];
        Self::launch(place, password, &lines, settings, SENTINEL_READY).await
    }

    async fn launch(
        place: ServerFolder,
        password: String,
        lines: &str,
        settings: Vec<OsString>,
        ready: &'static str,
    ) -> Result<RedisServer> {
        let program = find_program(PROGRAM)
            .context("could not find `redis-server`: install Redis (scripts/install.sh does)")?;
        let data = place.folder.join("data");
        fs::create_dir_all(&data).with_context(|| format!("could not make {}", data.display()))?;
        // In a file, since everybody can read a command line.
        let file = place.folder.join("redis.conf");
        secret::write(&file, lines, None)?;
        let launch = Launch {
            program,
            arguments: std::iter::once(file.into_os_string()).chain(settings).collect(),
            directory: data,
            environment: Vec::new(),
            account: None,
            stop_signal: "TERM",
        };
        let recipe = Recipe { name: "Redis", port_flag: "--port", ready, launch };
        Ok(RedisServer { server: Server::start(place, recipe).await?, password, bus: None })
    }

    /// `redis://:password@127.0.0.1:port/`, of the administrator; this machine only.
    pub fn url(&self) -> String {
        self.url_of("")
    }

    /// The port of a node of a cluster that other nodes use.
    pub fn bus_port(&self) -> Option<u16> {
        self.bus.as_ref().map(Port::number)
    }

    /// The administrator's password, which every user has.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The same URL for another user.
    pub fn url_of(&self, user: &str) -> String {
        format!("redis://{user}:{}@127.0.0.1:{}/", self.password, self.port())
    }
}

/// The folder of a server in `directory`, which is not running, and its password.
async fn take(directory: &Path) -> Result<(ServerFolder, String)> {
    let place = ServerFolder::take(directory, "redis").await?;
    clear(&place).await?;
    let password = secret::password_in(&place.folder)?;
    Ok((place, password))
}

/// Ends a Redis of an earlier run: the process id we noted, if that is still a
/// Redis on the port we noted.
async fn clear(place: &ServerFolder) -> Result<()> {
    let (Some(pid), Some(port)) = (place.last::<u32>("pid"), place.last::<String>("port")) else {
        return Ok(());
    };
    let is_ours = |one: &Living| {
        one.pid == pid && one.command.contains(PROGRAM) && one.command.contains(&port)
    };
    clear_leftovers("Redis", "TERM", &place.folder, is_ours).await
}

/// Removes everything that Redis kept in `directory`.
pub(super) async fn remove(directory: &Path) -> Result<()> {
    let place = ServerFolder::take(directory, "redis").await?;
    clear(&place).await?;
    place.remove()
}
