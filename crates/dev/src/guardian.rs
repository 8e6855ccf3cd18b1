//! Starts a program that cannot outlive us.
//!
//! Between us and the program stands a guardian, a few lines of `sh`. It
//! starts the program and then waits for either of two ends: the program's
//! own, or ours. We never write to its standard input; when we end, however we
//! end, the kernel closes that pipe, and the guardian stops the program. That
//! works alike on Linux and macOS and needs no unsafe code.
//!
//! The guardian has a process group of its own, so a Ctrl-C at the terminal
//! reaches neither it nor the program. It never restarts anything, and hands on
//! nothing of our environment but [`KEPT`]: that holds tokens.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::account::SystemAccount;
use super::place::Log;
use super::ps;

/// First line of standard output: the program's process id. Exit status: the
/// program's. Nothing but the guardian may hold the read end of the pipe, or
/// write to standard output later. The signal is repeated until the program has
/// ended: Redis forgets one that comes while it writes its first AOF.
const SCRIPT: &str = r#"
signal=$1
shift
exec 3<&0
"$@" </dev/null >&2 3<&- &
program=$!
echo "$program"
exec >&- </dev/null
( read -r never <&3; while kill -s "$signal" "$program"; do sleep 1; done ) 2>/dev/null &
watcher=$!
exec 3<&-
wait "$program"
status=$?
kill -s KILL "$watcher" 2>/dev/null
exit "$status"
"#;

/// What a program may know of our environment: where programs, libraries and room
/// for temporary files are.
const KEPT: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR"];

/// The guardian's name on its command line.
pub(super) const GUARDIAN: &str = "paystream-guardian";

/// How long a clean stop may take before `kill -9`, which loses nothing either.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What to start, and how it is told to stop.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) directory: PathBuf,
    /// What the program has in its environment beside [`KEPT`], and the guardian has not.
    pub(super) environment: Vec<(String, String)>,
    /// `None` means our own.
    pub(super) account: Option<SystemAccount>,
    /// The signal for a clean stop: "TERM", "INT".
    pub(super) stop_signal: &'static str,
}

/// A running program with its guardian. Dropping this stops the program, but
/// does not wait for it.
#[derive(Debug)]
pub(super) struct Guarded {
    pid: u32,
    life: Option<ChildStdin>,
    ended: watch::Receiver<Option<i32>>,
}

impl Guarded {
    /// Starts the program; what it prints goes to `log`.
    pub(super) async fn start(launch: &Launch, log: &Log) -> Result<Guarded> {
        let mut command = Command::new("sh");
        clean(&mut command);
        command
            .args(["-c", SCRIPT, GUARDIAN, launch.stop_signal, "env"])
            .args(launch.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .arg(&launch.program)
            .args(&launch.arguments)
            .current_dir(&launch.directory)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.writer()?);
        if let Some(account) = launch.account {
            command.uid(account.uid).gid(account.gid);
        }
        let name = launch.program.display();
        let mut child = command.spawn().with_context(|| format!("could not start {name}"))?;
        let life = child.stdin.take();
        let (pid, ended) = follow(child)?;
        let pid = pid.await.with_context(|| format!("could not start {name}"))?;
        Ok(Guarded { pid, life, ended })
    }

    /// The program's process id, also after its end.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The program's exit status, once it has ended; -1 when nobody knows it.
    pub(super) fn ended(&self) -> Option<i32> {
        *self.ended.borrow()
    }

    /// Waits for the program's end.
    pub(super) async fn wait(&self) -> i32 {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or(-1),
            Err(_follower_is_gone) => -1,
        }
    }

    /// Stops the program cleanly, or after half a minute with `kill -9`.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.life = None;
        if timeout(STOP_TIMEOUT, self.wait()).await.is_err() {
            tracing::warn!(pid = self.pid, "the server does not stop; killing it");
            self.kill().await?;
        }
        Ok(())
    }

    /// `kill -9` for the program and its children; returns when they are gone.
    pub(super) async fn kill(&mut self) -> Result<()> {
        if self.ended().is_none() {
            ps::kill_family(self.pid).await?;
            self.wait().await;
        }
        self.life = None;
        Ok(())
    }
}

/// Gives a program an environment of its own.
pub(super) fn clean(command: &mut Command) {
    let kept = KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(kept);
    // The same words in every log, and macOS wants a locale that exists.
    command.env("LC_ALL", "C");
}

/// Watches the guardian from a thread: it reaps the guardian whether or not
/// somebody still waits, and on whatever runtime they do.
fn follow(mut child: Child) -> Result<(oneshot::Receiver<u32>, watch::Receiver<Option<i32>>)> {
    let (tell_pid, pid) = oneshot::channel();
    let (tell_end, ended) = watch::channel(None);
    let stdout = child.stdout.take().context("could not listen to the guardian")?;
    let follower = move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        if let (Ok(_), Ok(pid)) = (read, line.trim().parse()) {
            // Nobody listens when the start was given up; the pipe closes then.
            tell_pid.send(pid).unwrap_or_default();
        }
        let status = child.wait().ok().and_then(|status| status.code());
        tell_end.send_replace(Some(status.unwrap_or(-1)));
    };
    std::thread::Builder::new()
        .name(String::from(GUARDIAN))
        .spawn(follower)
        .context("could not start a thread")?;
    Ok((pid, ended))
}
