//! Finds living programs by their command line, and signals them.
//!
//! Reads `/proc` on Linux (a small one has no `ps`), else asks `ps`. Never signals a
//! program that the caller did not name by its id.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

const POLL: Duration = Duration::from_millis(20);

/// A program that runs now.
#[derive(Debug, Clone)]
pub(super) struct Living {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) command: String,
}

/// Every program that runs now and that we may see; zombies are left out.
#[cfg(target_os = "linux")]
pub(super) async fn living() -> Result<Vec<Living>> {
    let all = procfs::process::all_processes().context("could not read /proc")?;
    // Nothing also where one ended while we looked.
    let read = |one: procfs::process::Process| {
        let (stat, command) = (one.stat().ok()?, one.cmdline().ok()?);
        let (pid, parent) = (stat.pid.try_into().ok()?, stat.ppid.try_into().ok()?);
        (stat.state != 'Z').then(|| Living { pid, parent, command: command.join(" ") + " " })
    };
    Ok(all.filter_map(|one| read(one.ok()?)).collect())
}

/// Every program that runs now and that we may see; zombies are left out.
#[cfg(not(target_os = "linux"))]
pub(super) async fn living() -> Result<Vec<Living>> {
    let output = Command::new("ps")
        .args(["-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "command="])
        .output()
        .await
        .context("could not run `ps`")?;
    let read = |line: &str| {
        let (pid, rest) = line.trim_start().split_once(' ')?;
        let (parent, rest) = rest.trim_start().split_once(' ')?;
        let (state, command) = rest.trim_start().split_once(' ')?;
        let (pid, parent) = (pid.parse().ok()?, parent.parse().ok()?);
        let command = format!("{} ", command.trim());
        (!state.starts_with('Z')).then_some(Living { pid, parent, command })
    };
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(read).collect())
}

/// Sends `name` ("INT", "KILL") to each of `pids` that still lives.
pub(super) async fn signal(name: &str, pids: &[u32]) -> Result<()> {
    Command::new("sh")
        .args(["-c", r#"signal=$0; kill -s "$signal" "$@""#, name])
        .args(pids.iter().map(u32::to_string))
        .output()
        .await
        .map(drop)
        .context("could not run `sh` to send a signal")
}

/// `kill -9` for a program and its children, as if at one moment.
///
/// It is halted first: otherwise it could start another child between our
/// look and our blow, and that child would live on with its memory.
pub(super) async fn kill_family(pid: u32) -> Result<()> {
    signal("STOP", &[pid]).await?;
    let mut family: Vec<u32> =
        living().await?.into_iter().filter(|one| one.parent == pid).map(|one| one.pid).collect();
    family.push(pid);
    signal("KILL", &family).await?;
    let gone = until_gone(|one| family.contains(&one.pid));
    timeout(Duration::from_secs(10), gone)
        .await
        .with_context(|| format!("process {pid} did not end under kill -9"))?
}

/// Returns when no living program matches.
pub(super) async fn until_gone(matches: impl Fn(&Living) -> bool) -> Result<()> {
    while living().await?.iter().any(&matches) {
        sleep(POLL).await;
    }
    Ok(())
}
