//! When each request is due, and the pacer that lets it go. The schedule never looks at the
//! service: a request is due when it is due, however slow the answers are. Never does IO.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// The pacer sleeps at least so long: it wakes at most 2,000 times a second, whatever the rate.
const NAP_MIN: Duration = Duration::from_micros(500);
/// The pacer looks at least so often whether it was told to stop.
const NAP_MAX: Duration = Duration::from_millis(50);

/// The due times of all requests of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) start: Instant,
    rate: u64,
    batch: u64,
    pub(super) requests: u64,
}

impl Schedule {
    /// `payments` due from `start` on at `rate` per second, `batch` of them per request.
    pub(super) fn new(start: Instant, rate: u32, batch: u32, payments: u64) -> Self {
        let batch = u64::from(batch);
        Self { start, rate: u64::from(rate), batch, requests: payments / batch }
    }

    pub(super) fn due(&self, index: u64) -> Instant {
        let payments = u128::from(index) * u128::from(self.batch);
        let nanos = payments * 1_000_000_000 / u128::from(self.rate);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4))
    }

    pub(super) fn end(&self) -> Instant {
        self.due(self.requests.saturating_sub(1))
    }

    /// How many requests are due at `now`.
    pub(super) fn due_by(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.start) else { return 0 };
        // Due times are rounded down to the nanosecond; so one more has passed.
        let payments = (elapsed.as_nanos() + 1) * u128::from(self.rate) / 1_000_000_000;
        let full = u64::try_from(payments / u128::from(self.batch)).unwrap_or(u64::MAX);
        full.saturating_add(1).min(self.requests)
    }
}

/// Hands due requests to whichever connection is free.
///
/// Tokio's timer counts whole milliseconds, which is a long time beside a latency of one. So a
/// thread of its own sleeps until requests are due and then lets go all of them at once.
#[derive(Debug)]
pub(super) struct Pacer {
    pub(super) schedule: Schedule,
    due: Semaphore,
    taken: AtomicU64,
}

impl Pacer {
    pub(super) fn new(schedule: Schedule) -> Self {
        Self { schedule, due: Semaphore::new(0), taken: AtomicU64::new(0) }
    }

    /// Lets requests go as they fall due; returns when all went, or after [`Pacer::stop`].
    /// Blocks its thread.
    pub(super) fn run(&self) {
        let mut released = 0;
        while released < self.schedule.requests && !self.due.is_closed() {
            let due = self.schedule.due_by(Instant::now());
            self.due.add_permits(usize::try_from(due - released).unwrap_or_default());
            released = due;
            let until_next = self.schedule.due(released).saturating_duration_since(Instant::now());
            std::thread::sleep(until_next.clamp(NAP_MIN, NAP_MAX));
        }
    }

    /// The next request, as soon as it is due. `None` when there is none left or the run was
    /// stopped. Safe to cancel.
    pub(super) async fn next(&self) -> Option<u64> {
        if self.taken.load(Ordering::Relaxed) >= self.schedule.requests {
            return None;
        }
        self.due.acquire().await.ok()?.forget();
        let index = self.taken.fetch_add(1, Ordering::Relaxed);
        if index + 1 >= self.schedule.requests {
            // The last one: nobody needs to wait any longer.
            self.due.close();
        }
        Some(index)
    }

    /// Lets no further request go.
    pub(super) fn stop(&self) {
        self.due.close();
    }
}
