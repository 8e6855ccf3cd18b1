//! Whether this worker reaches Redis, checked at every heartbeat: a worker that reaches only
//! PostgreSQL would keep its partitions from workers that reach both. Never decides what
//! follows.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::stream::Streams;

/// Unanswered questions in a row after which Redis counts as out of reach. When
/// all workers lose it, each has missed one before any has missed so many.
const MISSES_MAX: u32 = 3;

/// The number of consecutive failed checks.
#[derive(Clone)]
pub(super) struct Reach {
    misses: watch::Receiver<u32>,
}

impl Reach {
    /// The last check succeeded: partitions may be acquired.
    pub(super) fn is_sure(&self) -> bool {
        *self.misses.borrow() == 0
    }

    /// Redis is unreachable: partitions are handed over.
    pub(super) fn is_lost(&self) -> bool {
        *self.misses.borrow() >= MISSES_MAX
    }
}

/// Nothing is missed yet: Redis answered when the worker started.
pub(super) fn reach() -> (watch::Sender<u32>, Reach) {
    let (tell, misses) = watch::channel(0);
    (tell, Reach { misses })
}

/// Asks until `stop`. An answer that is not there at the next beat is a miss.
pub(super) async fn ask(
    streams: Streams,
    beat_interval: Duration,
    misses: watch::Sender<u32>,
    stop: CancellationToken,
) {
    let mut beats = interval(beat_interval);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(beats.tick()).await.is_some() {
        let answered = match timeout(beat_interval, streams.reach()).await {
            Ok(Ok(())) => true,
            // A refusal is reported by the lanes.
            Ok(Err(error)) => !error.is_outage(),
            Err(_) => false,
        };
        let missed = *misses.borrow();
        misses.send_replace(if answered { 0 } else { missed.saturating_add(1) });
        if answered && missed >= MISSES_MAX {
            info!("redis answers again; taking partitions");
        } else if !answered && missed + 1 == MISSES_MAX {
            warn!("redis does not answer; handing partitions over to workers that reach it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_sure_and_lost_nothing_moves() {
        let (misses, reach) = reach();
        assert!(reach.is_sure() && !reach.is_lost());
        misses.send_replace(1);
        assert!(!reach.is_sure() && !reach.is_lost());
        misses.send_replace(MISSES_MAX);
        assert!(!reach.is_sure() && reach.is_lost());
    }
}
