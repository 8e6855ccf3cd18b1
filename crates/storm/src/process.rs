//! The processes of paystream: started, killed, stopped and frozen as a machine or an operator
//! would. Each has a name, a log of all its lives, and somebody who notices when it ends by itself.
//! Never knows what a process is for.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep, timeout},
};

/// How long a process may take to stop: its grace of 25 s, and some.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// How long an operator's command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
/// So young, and some more on a busy machine, a process does not listen for signals yet.
const YOUNG: Duration = Duration::from_secs(5);
/// A process that has ended by itself is started again after this.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What a process may know of our environment. Unoptimised code needs the stack.
const KEPT: [&str; 2] = ["PATH", "RUST_MIN_STACK"];

/// The program, and what all of its processes are told.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) binary: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) settings: Vec<(String, String)>,
}

impl Program {
    fn command(&self, arguments: &[&str], settings: &[(String, String)]) -> Command {
        let mut command = Command::new(&self.binary);
        let kept = |name: &OsString| KEPT.iter().any(|kept| name == kept);
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| kept(name)));
        command.envs(self.settings.iter().cloned()).envs(settings.iter().cloned());
        command.args(arguments).current_dir(&self.folder);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs an operator's command to its end.
    pub(crate) async fn run(
        &self,
        arguments: &[&str],
        settings: &[(String, String)],
    ) -> Result<Output> {
        let mut command = self.command(arguments, settings);
        let output = timeout(COMMAND_TIMEOUT, command.output()).await;
        let what = || format!("paystream {}", arguments.join(" "));
        output.with_context(|| format!("{} did not end", what()))?.with_context(what)
    }
}

/// A process, running or not.
pub(crate) struct Process {
    pub(crate) name: String,
    program: Program,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    log: PathBuf,
    life: Mutex<Life>,
}

/// The process that runs, and since when.
#[derive(Default)]
struct Life {
    child: Option<Child>,
    begun: Option<Instant>,
}

impl Process {
    pub(crate) async fn start(
        program: &Program,
        name: &str,
        arguments: &[&str],
        settings: Vec<(String, String)>,
    ) -> Result<Self> {
        let process = Self {
            name: name.to_owned(),
            log: program.folder.join(format!("{name}.log")),
            program: program.clone(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            settings,
            life: Mutex::default(),
        };
        process.lock().await.begin()?;
        Ok(process)
    }

    /// Waits until nobody else does anything to it.
    pub(crate) async fn lock(&self) -> Hold<'_> {
        Hold { process: self, life: self.life.lock().await }
    }

    /// If it has ended by itself: how; and it is started again.
    pub(crate) async fn ended_by_itself(&self) -> Result<Option<String>> {
        let Ok(life) = self.life.try_lock() else { return Ok(None) };
        let mut hold = Hold { process: self, life };
        let Some(child) = hold.life.child.as_mut() else { return Ok(None) };
        let Some(status) = child.try_wait()? else { return Ok(None) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let said = log.lines().next_back().unwrap_or_default().to_owned();
        sleep(RESTART_PAUSE).await;
        hold.begin()?;
        // It must not start on one.
        let refuses = said.contains("this Redis is not safe for payments");
        Ok((!refuses).then(|| format!("{} ended by itself: {status}: {said}", self.name)))
    }
}

/// A process that nobody else may do anything to meanwhile.
pub(crate) struct Hold<'a> {
    process: &'a Process,
    life: MutexGuard<'a, Life>,
}

impl Hold<'_> {
    /// Starts it.
    pub(crate) fn begin(&mut self) -> Result<()> {
        let Process { program, arguments, settings, log, name, .. } = self.process;
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = program.command(&arguments, settings);
        command.stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("could not start {name}"))?;
        *self.life = Life { child: Some(child), begun: Some(Instant::now()) };
        Ok(())
    }

    /// `kill -9`; returns when it is gone.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.life.child.take() {
            child.kill().await.with_context(|| format!("could not kill {}", self.process.name))?;
        }
        Ok(())
    }

    /// SIGTERM; returns when it has ended, as it should.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.life.child.take() else { return Ok(()) };
        let name = &self.process.name;
        let Ok(status) = timeout(STOP_TIMEOUT, child.wait()).await else {
            child.kill().await?;
            bail!("{name} did not stop within {} s of SIGTERM", STOP_TIMEOUT.as_secs());
        };
        let status = status?;
        let is_young = self.life.begun.is_none_or(|begun| begun.elapsed() < YOUNG);
        let died_young = is_young && status.signal() == Some(Signal::TERM.as_raw());
        if !status.success() && !died_young {
            bail!("{name} ended with {status} after SIGTERM");
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match self.life.child.as_ref().and_then(Child::id) {
            Some(pid) => send(pid, signal),
            None => Ok(()),
        }
    }
}

/// Sends a signal to a process and to those that it started.
pub(crate) fn send_family(pid: u32, signal: Signal) -> Result<()> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        // It may have ended meanwhile.
        let _sent_or_gone = send(child.parse()?, signal);
    }
    send(pid, signal)
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    kill_process(pid, signal).with_context(|| format!("could not send {signal:?}"))
}

/// The program beside this one.
pub(crate) fn beside() -> Result<PathBuf> {
    let own = std::env::current_exe().context("could not find this program")?;
    let binary = own.parent().unwrap_or(Path::new(".")).join("paystream");
    if !binary.is_file() {
        bail!(
            "{} is not there: build it with `cargo build --bin paystream`, or say --binary",
            binary.display()
        );
    }
    Ok(binary)
}
