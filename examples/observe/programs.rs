//! Programs of this machine that end with us, and what they answer. Knows none of them.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

/// Programs of this machine start within this.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A port that is free now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A program whose output is kept in this folder.
pub fn start(command: &mut Command, folder: &Path, log: &str) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(folder.join(log))?;
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let child = command.stdout(log.try_clone()?).stderr(log).spawn();
    child.with_context(|| format!("could not start {:?}", command.as_std().get_program()))
}

/// Waits until something answers.
pub async fn answers(url: &str, child: &mut Child) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        if reqwest::get(url).await.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        ensure!(child.try_wait()?.is_none(), "{url}: it ended before it answered; see its log");
        ensure!(begun.elapsed() < START_TIMEOUT, "{url} does not answer");
        sleep(Duration::from_millis(100)).await;
    }
}
