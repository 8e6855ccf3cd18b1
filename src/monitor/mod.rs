//! The monitor: looks at the whole from time to time and puts down what it saw,
//! for whoever exports it. Every serving process has one, so that somebody looks
//! when no worker lives.
//!
//! Never a condition of service: it waits for no one without a limit, what it
//! cannot see is missing, and when it fails it is only logged. Never changes
//! anything.

mod audit;
mod cgroup;
mod process;
mod samples;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::{
    circuit_breaker::{self, CircuitBreaker},
    ledger::{Reader, Rounds},
    operations::Operations,
    progress::Board,
    telemetry::{GaugeSource, Sample, Signals, catalog},
};
use process::Reading;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A snapshot that the console took is shared when it is no older.
const FRESH: Duration = Duration::from_secs(2);
/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(4);
/// Between two counts of all customers.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// How long a count may take, waiting for a connection included.
const COUNT_MAX: Duration = Duration::from_secs(10);

/// What is looked at.
pub struct Monitor {
    /// The whole.
    pub operations: Arc<Operations>,
    /// What queries of the gateway go through, and the name of its pool.
    pub queries: Option<(&'static str, Reader)>,
    /// Whether Redis is known to be away,
    pub redis: Arc<CircuitBreaker>,
    /// and PostgreSQL.
    pub postgresql: Arc<CircuitBreaker>,
    /// The worker of this process, and how it fares.
    pub worker: Option<(String, Arc<Board>)>,
    /// What a gateway lets wait in a partition; none where payments are not taken.
    pub backlog_max: Option<u32>,
    /// Accounts a second that the running audit may recompute.
    pub audit_pace: u32,
    /// Where it is put down.
    pub signals: Signals,
}

/// Audits until `stop`, and looks and counts if somebody listens. Nothing that
/// was seen is said after that.
///
/// # Errors
/// None: that it fails is nobody's concern but its own.
pub async fn run(monitor: Monitor, rounds: Rounds, stop: CancellationToken) -> anyhow::Result<()> {
    let looking = async {
        let around = async {
            if monitor.signals.are_heard() {
                tokio::join!(monitor.keep_looking(), monitor.keep_counting());
            }
        };
        tokio::join!(around, audit::keep_auditing(&monitor, rounds));
        // What is turned off ends; this one ends with the process.
        std::future::pending::<()>().await;
    };
    stop.run_until_cancelled(looking).await;
    monitor.signals.forget_what_was_seen();
    Ok(())
}

/// Does one step; one that panics is only logged.
async fn guarded<T>(step: impl Future<Output = T>) -> Option<T> {
    let stepped = AssertUnwindSafe(step).catch_unwind().await;
    if stepped.is_err() {
        error!("a look of the monitor failed; it goes on");
    }
    stepped.ok()
}

impl Monitor {
    async fn keep_looking(&self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            looks.tick().await;
            guarded(async {
                // What is known at once does not wait for the stores.
                before = self.look_at_process(before.take()).await;
                self.look_at_whole().await;
            })
            .await;
        }
    }

    async fn look_at_whole(&self) {
        let (redis, postgresql) = match timeout(LOOK_MAX, self.operations.snapshot(FRESH)).await {
            Ok(snapshot) => (samples::redis(&snapshot), samples::postgresql(&snapshot)),
            Err(_) => (Vec::new(), Vec::new()),
        };
        self.saw(GaugeSource::Redis, redis);
        self.saw(GaugeSource::Postgresql, postgresql);
    }

    fn saw(&self, look: GaugeSource, samples: Vec<Sample>) {
        self.signals.saw(look, std::time::Instant::now(), samples);
    }

    /// Says how the process fares; needs the reading before, for how much
    /// processor time it used since.
    async fn look_at_process(&self, before: Option<Reading>) -> Option<Reading> {
        let runtime = tokio::runtime::Handle::current().metrics();
        let threads = runtime.num_workers();
        let reading = spawn_blocking(move || process::read(threads)).await.ok();
        let mut seen = samples::process(before.as_ref(), reading.as_ref());
        seen.push(Sample::count(&catalog::TASKS, runtime.num_alive_tasks()));
        seen.extend(self.backlog_max.map(|max| Sample::count(&catalog::BACKLOG_LIMIT, max)));
        for (dependency, circuit) in
            [(circuit_breaker::REDIS, &self.redis), (circuit_breaker::POSTGRESQL, &self.postgresql)]
        {
            seen.push(samples::circuit(dependency, circuit.check(Instant::now()).is_err()));
        }
        if let Some((pool, reader)) = &self.queries {
            seen.extend(samples::pool(pool, reader.usage()));
        }
        if let Some((name, board)) = &self.worker {
            let still = board.still(std::time::Instant::now());
            seen.extend(samples::worker(name, board.served(), still));
        }
        self.saw(GaugeSource::Process, seen);
        reading
    }

    async fn keep_counting(&self) {
        let mut counts = interval(COUNT_EVERY);
        counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            counts.tick().await;
            let count = guarded(timeout(COUNT_MAX, self.operations.customer_count())).await;
            self.saw(
                GaugeSource::Customers,
                match count {
                    Some(Ok(Ok(count))) => samples::customers(count),
                    Some(Ok(Err(error))) => {
                        debug!(%error, "customers could not be counted");
                        Vec::new()
                    }
                    Some(Err(_)) | None => Vec::new(),
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_panics_is_survived() {
        assert_eq!(guarded(async { 7 }).await, Some(7));
        let fails = async { panic!("on purpose") };
        assert_eq!(guarded::<()>(fails).await, None);
    }
}
