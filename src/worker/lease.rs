//! The time for which this worker may rely on owning its partitions, by its own monotonic
//! clock. Never asks a store: a worker that is cut off, or slept, must find out by itself.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// The part of a lease after which a worker without a heartbeat stops, well before another may
/// take its partitions.
const TRUSTED: (u32, u32) = (7, 10);

pub(super) struct Keeper {
    lease: Duration,
    end: watch::Sender<Instant>,
}

#[derive(Clone)]
pub(super) struct Lease {
    end: watch::Receiver<Instant>,
}

/// A lease that has not begun.
pub(super) fn lease(lease: Duration) -> (Keeper, Lease) {
    let (end, reader) = watch::channel(Instant::now());
    (Keeper { lease, end }, Lease { end: reader })
}

impl Keeper {
    pub(super) fn renew(&self, sent: Instant) {
        let (part, whole) = TRUSTED;
        self.end.send_replace(sent + self.lease * part / whole);
    }
}

impl Lease {
    /// Whether no other worker can own our partitions at `now`.
    pub(super) fn holds(&self, now: Instant) -> bool {
        now < *self.end.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_the_beat_was_sent() {
        let (keeper, lease) = lease(Duration::from_secs(10));
        let sent = Instant::now();
        assert!(!lease.holds(sent + Duration::from_millis(1)), "it has not begun");
        keeper.renew(sent);
        assert!(lease.holds(sent + Duration::from_millis(6_999)));
        assert!(!lease.holds(sent + Duration::from_secs(7)));
    }
}
