//! Stops a process: on SIGTERM or SIGINT, and within a grace period. SIGUSR1 changes
//! the log level. SIGHUP stops what runs in a terminal that is closed, and nothing that serves:
//! there it is for the key set.

use std::{pin::pin, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Signals;

/// Runs until it has ended by itself, or has been stopped by SIGTERM or SIGINT, or by SIGHUP where
/// a terminal was closed. A second signal does not wait for the end. SIGUSR1 changes how much is logged.
pub(super) async fn until_interrupted<F, R>(
    signals: &Signals,
    in_terminal: bool,
    run: F,
) -> anyhow::Result<()>
where
    F: FnOnce(CancellationToken) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    let stop = CancellationToken::new();
    // Whoever follows a file listens, too; where nobody listened, the process would end.
    let mut hangups = signal(SignalKind::hangup()).context("could not watch for SIGHUP")?;
    let stopping = async {
        // One listener throughout: a signal that comes while nobody listens is lost.
        let mut first = pin!(interrupted());
        loop {
            tokio::select! {
                ended = &mut first => break ended?,
                _ = hangups.recv() => if in_terminal { break },
            }
        }
        stop.cancel();
        interrupted().await?;
        bail!("stopped at once by a second signal")
    };
    let listening = async {
        let mut asked =
            signal(SignalKind::user_defined1()).context("could not watch for SIGUSR1")?;
        while asked.recv().await.is_some() {
            signals.toggle_log_level();
        }
        std::future::pending().await
    };
    tokio::select! {
        ended = run(stop.clone()) => ended,
        ended = stopping => ended,
        ended = listening => ended,
    }
}

async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("could not watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not watch for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits until every task has ended, for as long as a stop may take.
pub(super) async fn drain(
    mut tasks: JoinSet<anyhow::Result<()>>,
    grace: Duration,
) -> anyhow::Result<()> {
    let ending = async {
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task failed")??;
        }
        anyhow::Ok(())
    };
    timeout(grace, ending).await.with_context(|| {
        format!(
            "the stop took longer than PAYSTREAM_SHUTDOWN_GRACE ({grace:?}); what was accepted is \
             safe in the stream"
        )
    })?
}
