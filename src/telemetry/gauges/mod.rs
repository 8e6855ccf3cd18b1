//! What is seen from time to time: how deep the streams are, who owns what, how
//! the process fares. Whoever looks puts down what it saw; it is exported for
//! as long as it is fresh, and not at all after that. Never looks by itself.

mod readings;
mod seen;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, metrics::Meter};

pub use seen::{
    AuditSeen, CustomersSeen, LedgerSeen, PoolSeen, ProcessSeen, StreamSeen, StreamsSeen,
    WorkerSeen,
};

use super::{Signals, words};
use readings::READINGS;

/// How long a look counts that is made every few seconds,
const FRESH: Duration = Duration::from_secs(30);
/// and one that costs more and is made less often.
const FRESH_IF_RARE: Duration = Duration::from_secs(180);

/// Something that was seen, and when.
struct Sight<T> {
    last: Option<(Instant, T)>,
    fresh_for: Duration,
}

impl<T> Sight<T> {
    fn new(fresh_for: Duration) -> Self {
        Self { last: None, fresh_for }
    }

    /// What was seen, unless that was too long ago.
    fn at(&self, now: Instant) -> Option<&T> {
        let (at, seen) = self.last.as_ref()?;
        (now.saturating_duration_since(*at) <= self.fresh_for).then_some(seen)
    }

    fn put(&mut self, now: Instant, seen: Option<T>) {
        self.last = seen.map(|seen| (now, seen));
    }
}

/// Everything that was seen last.
struct Sights {
    streams: Sight<StreamsSeen>,
    ledger: Sight<LedgerSeen>,
    customers: Sight<CustomersSeen>,
    audit: Sight<AuditSeen>,
    process: Sight<ProcessSeen>,
}

impl Default for Sights {
    fn default() -> Self {
        Self {
            streams: Sight::new(FRESH),
            ledger: Sight::new(FRESH),
            customers: Sight::new(FRESH_IF_RARE),
            audit: Sight::new(FRESH_IF_RARE),
            process: Sight::new(FRESH),
        }
    }
}

/// What may be exported at one moment.
struct View<'a> {
    now: Instant,
    streams: Option<&'a StreamsSeen>,
    ledger: Option<&'a LedgerSeen>,
    customers: Option<&'a CustomersSeen>,
    audit: Option<&'a AuditSeen>,
    process: Option<&'a ProcessSeen>,
}

impl Sights {
    fn at(&self, now: Instant) -> View<'_> {
        View {
            now,
            streams: self.streams.at(now),
            ledger: self.ledger.at(now),
            customers: self.customers.at(now),
            audit: self.audit.at(now),
            process: self.process.at(now),
        }
    }
}

/// What was seen last.
pub(super) struct Gauges {
    sights: Arc<Mutex<Sights>>,
}

impl Gauges {
    pub(super) fn register(meter: &Meter) -> Self {
        Self::with_clock(meter, Instant::now)
    }

    fn with_clock(
        meter: &Meter,
        clock: impl Fn() -> Instant + Clone + Send + Sync + 'static,
    ) -> Self {
        let sights = Arc::new(Mutex::new(Sights::default()));
        for (metric, read) in READINGS {
            let (sights, clock) = (Arc::clone(&sights), clock.clone());
            // The meter keeps what asks.
            let _asked = meter
                .f64_observable_gauge(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.description)
                .with_callback(move |observer| {
                    let sights = sights.lock().unwrap_or_else(PoisonError::into_inner);
                    read(&sights.at(clock()), &mut |value, attributes| {
                        observer.observe(value, attributes);
                    });
                })
                .build();
        }
        Self { sights }
    }

    fn put(&self, put: impl FnOnce(&mut Sights)) {
        put(&mut self.sights.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What was seen replaces what was seen before; nothing says that it could not
/// be seen.
impl Signals {
    /// What Redis says.
    pub fn saw_streams(&self, now: Instant, seen: Option<StreamsSeen>) {
        self.0.gauges.put(|sights| sights.streams.put(now, seen));
    }

    /// What PostgreSQL says.
    pub fn saw_ledger(&self, now: Instant, seen: Option<LedgerSeen>) {
        self.0.gauges.put(|sights| sights.ledger.put(now, seen));
    }

    /// How many customers there are.
    pub fn saw_customers(&self, now: Instant, seen: Option<CustomersSeen>) {
        self.0.gauges.put(|sights| sights.customers.put(now, seen));
    }

    /// How far the running audit has come, while this process does it.
    pub fn saw_audit(&self, now: Instant, seen: Option<AuditSeen>) {
        self.0.gauges.put(|sights| sights.audit.put(now, seen));
    }

    /// How this process fares.
    pub fn saw_process(&self, now: Instant, seen: Option<ProcessSeen>) {
        self.0.gauges.put(|sights| sights.process.put(now, seen));
    }

    /// Nobody looks any more: nothing that was seen is said.
    pub fn forget_what_was_seen(&self) {
        self.0.gauges.put(|sights| *sights = Sights::default());
    }

    /// A query waited so long for a connection of this pool.
    pub fn waited_for_connection(&self, pool: &'static str, waited: Duration) {
        let pool = [KeyValue::new(words::POOL, pool)];
        self.0.meters.pool_wait.record(waited.as_secs_f64(), &pool);
    }
}
