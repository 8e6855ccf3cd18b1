//! Follows a file of keys: reads it again when it has changed, and at SIGHUP. Never goes on
//! without keys: a file that cannot be used changes nothing.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Until a changed file is used.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The text of a file of settings.
///
/// # Errors
///
/// A sentence that says what is wrong with the file.
pub fn text(path: &Path) -> Result<String, String> {
    let read = || {
        // Opening another thing, such as a pipe, might not return.
        if !fs::metadata(path)?.is_file() {
            return Ok(Err("it is not a regular file".to_owned()));
        }
        let mut text = String::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        let is_too_large = text.len() as u64 > FILE_BYTES_MAX;
        Ok(if is_too_large { Err("it is larger than 1 MiB".to_owned()) } else { Ok(text) })
    };
    read().unwrap_or_else(|error: std::io::Error| Err(format!("it cannot be read: {error}")))
}

/// Has `take` use this file whenever it changes, and at SIGHUP, until `stop`. What it refuses
/// changes nothing, and is logged as `what`.
pub async fn follow(
    path: PathBuf,
    what: &'static str,
    take: impl Fn(&str) -> Result<(), String>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut hangups = signal(SignalKind::hangup()).context("could not listen to SIGHUP")?;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = looks.tick() => false,
            _ = hangups.recv() => true,
        };
        // Its disk may be slow; nothing else waits for it.
        let read = path.clone();
        let reading = tokio::task::spawn_blocking(move || text(&read));
        let Some(now) = stop.run_until_cancelled(reading).await else { return Ok(()) };
        let now = now?;
        if last.as_ref() == Some(&now) && !asked {
            continue;
        }
        if let Err(error) = now.as_deref().map_err(Clone::clone).and_then(&take) {
            let file = path.display();
            warn!(%file, error, "{what} cannot be used; going on with the last one");
        }
        last = Some(now);
    }
}
