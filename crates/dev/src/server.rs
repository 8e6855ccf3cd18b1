//! The life of one private server: start, answer, stop, be killed, come back.
//!
//! The same for both kinds. Never knows what a server is for.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, timeout};

use super::guardian::{GUARDIAN, Guarded, Launch};
use super::place::{Log, ServerFolder};
use super::port::{Port, is_free};
use super::ps::{self, Living};

/// PostgreSQL and Redis log this once they serve.
pub(super) const READY: &str = "eady to accept";
/// A server must log something within this, and may then load for longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
const POLL_FIRST: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(250);
const MESSAGE_EVERY: Duration = Duration::from_secs(5);

/// How long servers of an earlier run may take to end by themselves.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Somebody may take a port between our look and the server's.
const PORT_ATTEMPTS: usize = 5;

/// How to start a server; all but its port.
#[derive(Clone)]
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) port_flag: &'static str,
    /// What it logs once it serves.
    pub(super) ready: &'static str,
    pub(super) launch: Launch,
}

/// A private server, running or not, and its locked folder. Dropping it stops it, but does not
/// wait for it.
pub struct Server {
    // First, so that a drop tells the server to stop before it unlocks the place.
    running: Guarded,
    pub(super) place: ServerFolder,
    recipe: Recipe,
    port: Port,
}

impl Server {
    /// Starts on the port of last time, or on another free one.
    pub(super) async fn start(place: ServerFolder, recipe: Recipe) -> Result<Server> {
        let mut attempt = 1;
        loop {
            let port = place.choose_port()?;
            match launch(&place, &recipe, port.number()).await {
                Ok(running) => return Ok(Server { running, place, recipe, port }),
                Err(_) if attempt < PORT_ATTEMPTS && !is_free(port.number()) => attempt += 1,
                Err(error) => {
                    return Err(error.context(format!("could not start {}", recipe.name)));
                }
            }
        }
    }

    /// Where the data really is: under `/var/tmp` when we are root and PostgreSQL's account
    /// cannot reach the directory that was asked for.
    pub fn data_directory(&self) -> &Path {
        &self.recipe.launch.directory
    }

    /// The port, the same across restarts.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process id of the latest start.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Whether it runs no more, whoever ended it.
    pub fn has_ended(&self) -> bool {
        self.running.ended().is_some()
    }

    /// From its next start on it has these in its environment.
    pub fn set_environment(&mut self, variables: Vec<(String, String)>) {
        self.recipe.launch.environment = variables;
    }

    /// Stops it cleanly and waits for its end.
    pub async fn stop(&mut self) -> Result<()> {
        self.running.stop().await
    }

    /// `kill -9` for it and its children; returns when they are gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.running.kill().await
    }

    /// Starts it again, stopping it first if it runs: same port, same data.
    ///
    /// Returns when it has loaded its data and serves.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let started = launch(&self.place, &self.recipe, self.port.number()).await;
        self.running =
            started.with_context(|| format!("could not restart {}", self.recipe.name))?;
        Ok(())
    }
}

async fn launch(place: &ServerFolder, recipe: &Recipe, port: u16) -> Result<Guarded> {
    let mut launch = recipe.launch.clone();
    launch.arguments.push(recipe.port_flag.into());
    launch.arguments.push(port.to_string().into());
    let log = place.open_log()?;
    let mut running = Guarded::start(&launch, &log).await?;
    place.remember(port, running.pid())?;
    if let Err(error) = until_ready(recipe, &running, &log).await {
        running.stop().await?;
        return Err(error);
    }
    tracing::info!(server = recipe.name, port, pid = running.pid(), "server is ready");
    Ok(running)
}

/// Polls until the server serves, ends, or has had its time.
async fn until_ready(recipe: &Recipe, running: &Guarded, log: &Log) -> Result<()> {
    let name = recipe.name;
    let began = Instant::now();
    let mut pause = POLL_FIRST;
    let mut next_message = began + MESSAGE_EVERY;
    loop {
        if let Some(status) = running.ended() {
            let lines = log.last_lines();
            bail!("{name} ended with status {status} instead of starting:\n{lines}");
        }
        let said = log.text();
        if said.contains(recipe.ready) {
            return Ok(());
        }
        let limit = if said.is_empty() { ANSWER_TIMEOUT } else { LOAD_TIMEOUT };
        if began.elapsed() > limit {
            let lines = log.last_lines();
            bail!("{name} did not get ready within {} s:\n{lines}", limit.as_secs());
        }
        if Instant::now() >= next_message {
            tracing::info!(server = name, "waiting for the server to be ready");
            next_message += MESSAGE_EVERY;
        }
        // An early end is noticed at once, everything else at the next look.
        let _ended_or_not = timeout(pause, running.wait()).await;
        pause = POLL_MAX.min(pause * 2);
    }
}

/// Waits for servers of an earlier run to end; ends them if they do not.
///
/// Their guardian is stopping them as a rule. Where it is gone too, nobody
/// would, so `stop_signal` is sent once.
pub(super) async fn clear_leftovers(
    name: &str,
    stop_signal: &str,
    folder: &Path,
    is_ours: impl Fn(&Living) -> bool,
) -> Result<()> {
    let ours = async || {
        let living = ps::living().await?;
        anyhow::Ok(living.into_iter().filter(&is_ours).collect::<Vec<Living>>())
    };
    let first = ours().await?;
    if first.is_empty() {
        return Ok(());
    }
    tracing::info!("waiting for {name} of an earlier run in {} to stop", folder.display());
    let leads = |one: &&Living| first.iter().all(|other| other.pid != one.parent);
    let unguarded = |one: &&Living| !one.command.contains(GUARDIAN);
    let heads: Vec<u32> = first.iter().filter(leads).filter(unguarded).map(|one| one.pid).collect();
    ps::signal(stop_signal, &heads).await?;
    if let Ok(gone) = timeout(LEFTOVER_TIMEOUT, ps::until_gone(&is_ours)).await {
        return gone;
    }
    let rest: Vec<u32> = ours().await?.iter().map(|one| one.pid).collect();
    tracing::warn!("killing {name} of an earlier run: {rest:?}");
    ps::signal("KILL", &rest).await?;
    timeout(LEFTOVER_TIMEOUT, ps::until_gone(&is_ours))
        .await
        .with_context(|| format!("{name} of an earlier run does not end"))?
}
