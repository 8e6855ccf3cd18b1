//! Circuit breakers: after several calls in a row that found a dependency away,
//! no more are made until a probe has found it back. Whoever is refused is told
//! at once instead of after a time limit, and the dependency is not stormed
//! while it comes back. Never calls anything but the probe it is given.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info};

pub const REDIS: &str = "redis";
pub const POSTGRESQL: &str = "postgresql";
/// Calls in a row that find a dependency away before its circuit opens.
const FAILURES_MAX: u32 = 5;
/// Pause between two probes of an open circuit.
const PROBE_EVERY: Duration = Duration::from_millis(500);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct CircuitBreaker {
    dependency: &'static str,
    failures: Mutex<u32>,
    /// Calls in a row that open it.
    failures_max: u32,
    /// Since when it is open, if it is.
    opened: watch::Sender<Option<Instant>>,
}

/// A circuit is open: the dependency was found away and is being probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{dependency} has been away for {} s and is probed until it answers", since.as_secs())]
pub struct Open {
    pub dependency: &'static str,
    pub since: Duration,
}

impl CircuitBreaker {
    #[must_use]
    pub fn new(dependency: &'static str) -> Self {
        let (failures, failures_max) = (Mutex::new(0), FAILURES_MAX);
        Self { dependency, failures, failures_max, opened: watch::Sender::new(None) }
    }

    /// One that stays closed: some of several servers may be away, and others serve.
    #[must_use]
    pub fn of_several(dependency: &'static str) -> Self {
        Self { failures_max: u32::MAX, ..Self::new(dependency) }
    }

    /// Whether a call may be made at `now`.
    pub fn check(&self, now: Instant) -> Result<(), Open> {
        let opened = *self.opened.borrow();
        opened.map_or(Ok(()), |at| {
            Err(Open { dependency: self.dependency, since: now.saturating_duration_since(at) })
        })
    }

    pub fn succeeded(&self) {
        // A late answer does not close it: the probe does.
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }

    pub fn failed(&self, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures = failures.saturating_add(1);
        let opens = *failures >= self.failures_max
            && self.opened.send_if_modified(|opened| opened.replace(now).is_none());
        if opens {
            error!(dependency = self.dependency, failures = *failures, "circuit opened");
        }
    }

    pub async fn closed(&self) {
        // The sender is ours, so it is not gone.
        let _ = self.opened.subscribe().wait_for(Option::is_none).await;
    }

    /// Probes the dependency whenever the circuit is open, and closes it when a
    /// probe succeeds. Runs for ever.
    pub async fn keep<P, F>(&self, probe: P)
    where
        P: Fn() -> F,
        F: Future<Output = bool>,
    {
        let mut opened = self.opened.subscribe();
        while let Ok(at) = opened.wait_for(Option::is_some).await.map(|at| *at) {
            sleep(PROBE_EVERY).await;
            if timeout(PROBE_TIMEOUT, probe()).await == Ok(true) {
                self.succeeded();
                self.opened.send_replace(None);
                let open_ms = at.map(|at| at.elapsed().as_millis());
                info!(dependency = self.dependency, open_ms, "circuit closed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_circuit_opens_after_failures_in_a_row_and_closes_by_a_probe() {
        let circuit = CircuitBreaker::new("redis");
        for _ in 1..FAILURES_MAX {
            circuit.failed(Instant::now());
        }
        circuit.succeeded();
        for _ in 1..FAILURES_MAX {
            circuit.failed(Instant::now());
            assert_eq!(circuit.check(Instant::now()), Ok(()));
        }
        let opened = Instant::now();
        circuit.failed(opened);
        circuit.succeeded();
        let later = opened + Duration::from_secs(3);
        let open = circuit.check(later).unwrap_err();
        assert_eq!((open.dependency, open.since), ("redis", Duration::from_secs(3)));

        // Away at two probes more, then back.
        let probes = AtomicU32::new(0);
        let probe = async || {
            assert!(circuit.check(Instant::now()).is_err(), "open until a probe succeeds");
            probes.fetch_add(1, Ordering::Relaxed) == 2
        };
        tokio::select! {
            () = circuit.keep(probe) => unreachable!("it goes on for ever"),
            () = circuit.closed() => {}
        }
        assert_eq!(probes.load(Ordering::Relaxed), 3);
        assert_eq!(circuit.check(Instant::now()), Ok(()));
    }
}
