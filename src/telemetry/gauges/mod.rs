//! Gauges: values that a look puts down from time to time. They are exported for as long
//! as the look is fresh, and not at all after that. Never looks by itself.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, Value, metrics::Meter};

use super::{
    Signals,
    catalog::{Kind, METRICS, Metric},
    words,
};

/// Who looks. What it sees replaces all that it saw before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    Redis,
    Postgresql,
    Customers,
    Audit,
    Process,
}

impl Look {
    /// How long it counts: some looks cost more and are made less often.
    fn fresh_for(self) -> Duration {
        match self {
            Self::Redis | Self::Postgresql | Self::Process => Duration::from_secs(30),
            Self::Customers | Self::Audit => Duration::from_secs(180),
        }
    }
}

/// A value of a gauge, and what tells it apart.
#[derive(Clone, Debug)]
pub struct Sample {
    pub metric: &'static Metric,
    amount: Amount,
    attributes: Vec<KeyValue>,
}

#[derive(Clone, Copy, Debug)]
enum Amount {
    /// Exact up to 2^53, as everything that leaves as a gauge.
    Count(i64),
    Time(Duration),
    /// The time since then, whenever that is asked.
    Since(Instant),
    Share(Duration, Duration),
}

impl Sample {
    #[must_use]
    pub fn count(metric: &'static Metric, count: impl TryInto<i64>) -> Self {
        Self::new(metric, Amount::Count(count.try_into().unwrap_or(i64::MAX)))
    }

    #[must_use]
    pub fn time(metric: &'static Metric, time: Duration) -> Self {
        Self::new(metric, Amount::Time(time))
    }

    #[must_use]
    pub fn since(metric: &'static Metric, then: Instant) -> Self {
        Self::new(metric, Amount::Since(then))
    }

    /// How much of `whole` is `part`.
    #[must_use]
    pub fn share(metric: &'static Metric, part: Duration, whole: Duration) -> Self {
        Self::new(metric, Amount::Share(part, whole))
    }

    fn new(metric: &'static Metric, amount: Amount) -> Self {
        // What is the same for every value of a metric.
        let same = [(words::DESTINATION_NAME, words::DESTINATION), (words::GROUP, words::LEDGER)];
        let same = same.into_iter().filter(|(name, _)| metric.attributes.contains(name));
        let attributes = same.map(|(name, value)| KeyValue::new(name, value)).collect();
        Self { metric, amount, attributes }
    }

    /// Tells it apart from others of its metric.
    #[must_use]
    pub fn by(mut self, attribute: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push(KeyValue::new(attribute, value));
        self
    }

    /// Names of what tells it apart.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(|attribute| attribute.key.as_str())
    }

    #[must_use]
    pub fn value(&self, now: Instant) -> f64 {
        match self.amount {
            Amount::Count(count) => count as f64,
            Amount::Time(time) => time.as_secs_f64(),
            Amount::Since(then) => now.saturating_duration_since(then).as_secs_f64(),
            Amount::Share(part, whole) => part.div_duration_f64(whole),
        }
    }
}

/// What each look saw last, and when.
type Seen = BTreeMap<Look, (Instant, Vec<Sample>)>;

/// What was seen last.
pub(super) struct Gauges(Arc<Mutex<Seen>>);

impl Gauges {
    pub(super) fn register(meter: &Meter) -> Self {
        Self::with_clock(meter, Instant::now)
    }

    fn with_clock(
        meter: &Meter,
        clock: impl Fn() -> Instant + Clone + Send + Sync + 'static,
    ) -> Self {
        let gauges = Self(Arc::default());
        for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Gauge) {
            let (seen, clock) = (Self(Arc::clone(&gauges.0)), clock.clone());
            // The meter keeps what asks.
            let _asked = meter
                .f64_observable_gauge(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.description)
                .with_callback(move |observer| {
                    let now = clock();
                    let seen = seen.lock();
                    let fresh = seen.iter().filter(|(look, (at, _))| {
                        now.saturating_duration_since(*at) <= look.fresh_for()
                    });
                    fresh
                        .flat_map(|(_, (_, samples))| samples)
                        .filter(|sample| std::ptr::eq(sample.metric, *metric))
                        .for_each(|sample| observer.observe(sample.value(now), &sample.attributes));
                })
                .build();
        }
        gauges
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signals {
    /// What was seen replaces what this look saw before; nothing, when it could not see.
    pub fn saw(&self, look: Look, now: Instant, samples: Vec<Sample>) {
        self.0.gauges.lock().insert(look, (now, samples));
    }

    /// Nobody looks any more: nothing that was seen is said.
    pub fn forget_what_was_seen(&self) {
        self.0.gauges.lock().clear();
    }

    /// A query waited so long for a connection of this pool.
    pub fn waited_for_connection(&self, pool: &'static str, waited: Duration) {
        let pool = [KeyValue::new(words::POOL, pool)];
        self.0.meters.pool_wait.record(waited.as_secs_f64(), &pool);
    }
}
