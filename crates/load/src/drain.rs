//! Waiting until the service has settled everything it accepted. Only asks; never counts
//! anything for itself.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{api::Api, progress::Progress};

const POLL_MIN: Duration = Duration::from_millis(100);
/// A costly answer is asked for less often: the pause is this many times its duration.
const POLL_RESTRAINT: u32 = 4;

/// How the wait ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Drain {
    /// True when no partition had lag or pending entries left.
    pub(super) drained: bool,
    pub(super) waited_ms: u64,
    /// What was left, where the service said so.
    pub(super) backlog: Option<u64>,
    #[serde(skip)]
    pub(super) ended: Instant,
    /// The last thing that went wrong while asking, if it never drained.
    pub(super) error: Option<String>,
}

/// Waits at most `timeout` until the backlog is zero, or until told to `stop`.
pub(super) async fn wait(
    api: &Api,
    timeout: Duration,
    stop: &CancellationToken,
    progress: &mut Progress,
) -> Drain {
    let started = Instant::now();
    let mut drain =
        Drain { drained: false, waited_ms: 0, backlog: None, ended: started, error: None };
    while !stop.is_cancelled() {
        let asked = Instant::now();
        let left = timeout.saturating_sub(started.elapsed());
        let answer = tokio::select! {
            () = stop.cancelled() => break,
            answer = tokio::time::timeout(left, api.stats()) => answer,
        };
        match answer {
            Ok(Ok(stats)) => {
                let backlog = stats.backlog();
                drain.backlog = Some(backlog);
                drain.error = None;
                if backlog == 0 {
                    drain.drained = true;
                    break;
                }
                let elapsed = started.elapsed().as_secs();
                progress.tell(|| {
                    format!(
                        "draining {elapsed}s  backlog {backlog}  ledger {}",
                        stats.totals.payments
                    )
                });
            }
            Ok(Err(error)) => drain.error = Some(format!("{error:#}")),
            Err(_) => break,
        }
        let pause = (asked.elapsed() * POLL_RESTRAINT).max(POLL_MIN);
        tokio::time::sleep(pause.min(timeout.saturating_sub(started.elapsed()))).await;
        if started.elapsed() >= timeout {
            break;
        }
    }
    drain.ended = Instant::now();
    drain.waited_ms = millis(drain.ended - started);
    drain
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
