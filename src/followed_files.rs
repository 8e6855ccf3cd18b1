//! Reads small files, and again when one of them has changed, or at SIGHUP. Never knows what
//! is in them: whoever follows decides whether that can be used.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// Until a changed file is used.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What is in a file, or a sentence that says why that is not known.
pub(crate) type Text = Result<String, String>;

pub(crate) fn text(path: &Path) -> Text {
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

/// Hands over what is in these files, now and whenever one of them changes, until `stop`.
pub(crate) async fn follow(
    paths: Vec<PathBuf>,
    stop: CancellationToken,
    mut changed: impl FnMut(&[Text]),
) -> anyhow::Result<()> {
    let mut hangups = signal(SignalKind::hangup()).context("could not listen to SIGHUP")?;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Vec::new();
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = looks.tick() => false,
            _ = hangups.recv() => true,
        };
        // Their disk may be slow; nothing else waits for it.
        let read = paths.clone();
        let reading = spawn_blocking(move || read.iter().map(|path| text(path)).collect());
        let Some(now) = stop.run_until_cancelled(reading).await else { return Ok(()) };
        let now: Vec<Text> = now?;
        if asked || last != now {
            changed(&now);
            last = now;
        }
    }
}
