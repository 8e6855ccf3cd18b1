//! Has what is kept for a while only deleted, at intervals. Never waits for it, and is no condition
//! of settling.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::process::Worker;

/// Between two rounds.
const ROUND_WAIT: Duration = Duration::from_secs(30);

/// Deletes until `stop`, in batches, so that nobody waits for one.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) {
    let keeping = worker.ledger.keeping();
    let mut interval = interval(ROUND_WAIT);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let deleting = async {
            let (attempts, moves) =
                (worker.config.attempts_retention, worker.config.moves_retention);
            while keeping.round(attempts, moves).await? {}
            Ok::<_, crate::ledger::Error>(())
        };
        if let Some(Err(error)) = stop.run_until_cancelled(deleting).await {
            warn!(error = error.sentence(), "could not delete old attempts; trying again");
        }
    }
}
