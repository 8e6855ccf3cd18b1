//! Finds living programs by their command line, and signals them.
//!
//! Reads `/proc` where there is one (a small Linux has no `ps`), else asks
//! `ps`. Never signals a program that the caller did not name by its id.

use std::fs;
use std::path::Path;
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
pub(super) async fn living() -> Result<Vec<Living>> {
    if Path::new("/proc/self/stat").exists() {
        let entries = fs::read_dir("/proc").context("could not read /proc")?;
        return Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(from_proc)
            .collect());
    }
    let output = Command::new("ps")
        .args(["-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "command="])
        .output()
        .await
        .context("could not run `ps`")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(from_ps).collect())
}

/// `None` also when it ended while we looked.
fn from_proc(pid: u32) -> Option<Living> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may itself hold brackets and spaces.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    (state != "Z").then_some(Living { pid, parent, command })
}

fn from_ps(line: &str) -> Option<Living> {
    let (pid, rest) = line.trim_start().split_once(' ')?;
    let (parent, rest) = rest.trim_start().split_once(' ')?;
    let (state, command) = rest.trim_start().split_once(' ')?;
    let command = format!("{} ", command.trim());
    let living = Living { pid: pid.parse().ok()?, parent: parent.parse().ok()?, command };
    (!state.starts_with('Z')).then_some(living)
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
