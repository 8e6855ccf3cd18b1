//! Gauges: values that the monitor sets every few seconds. Stale values are not exported.
//! Never measures anything itself.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, Value, metrics::Meter};

use super::{
    catalog::{Instrument, METRICS, Metric},
    words,
};

/// Where samples come from; new ones replace all earlier ones of the same source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GaugeSource {
    /// What holds from the start of the process to its end.
    Start,
    Redis,
    Postgresql,
    Customers,
    Audit,
    Process,
}

impl GaugeSource {
    /// How long its samples are exported: expensive ones are taken less often.
    fn fresh_for(self) -> Duration {
        match self {
            Self::Start => Duration::MAX,
            Self::Redis | Self::Postgresql | Self::Process => Duration::from_secs(30),
            Self::Customers | Self::Audit => Duration::from_secs(180),
        }
    }
}

/// A value of a gauge, with its attributes.
#[derive(Clone, Debug)]
pub struct Sample {
    pub metric: &'static Metric,
    amount: Measurement,
    attributes: Vec<KeyValue>,
}

#[derive(Clone, Copy, Debug)]
enum Measurement {
    /// Exported as a double: exact up to 2^53.
    Count(i64),
    Time(Duration),
    /// The time since then, at export.
    Since(Instant),
    Share(Duration, Duration),
}

impl Sample {
    pub fn count(metric: &'static Metric, count: impl TryInto<i64>) -> Self {
        Self::new(metric, Measurement::Count(count.try_into().unwrap_or(i64::MAX)))
    }

    pub fn time(metric: &'static Metric, time: Duration) -> Self {
        Self::new(metric, Measurement::Time(time))
    }

    pub fn since(metric: &'static Metric, then: Instant) -> Self {
        Self::new(metric, Measurement::Since(then))
    }

    pub fn share(metric: &'static Metric, part: Duration, whole: Duration) -> Self {
        Self::new(metric, Measurement::Share(part, whole))
    }

    fn new(metric: &'static Metric, amount: Measurement) -> Self {
        let same = [(words::DESTINATION_NAME, words::DESTINATION), (words::GROUP, words::LEDGER)];
        let same = same.into_iter().filter(|(name, _)| metric.attributes.contains(name));
        let attributes = same.map(|(name, value)| KeyValue::new(name, value)).collect();
        Self { metric, amount, attributes }
    }

    pub fn by(mut self, attribute: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push(KeyValue::new(attribute, value));
        self
    }

    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(|attribute| attribute.key.as_str())
    }

    pub fn value(&self, now: Instant) -> f64 {
        match self.amount {
            Measurement::Count(count) => count as f64,
            Measurement::Time(time) => time.as_secs_f64(),
            Measurement::Since(then) => now.saturating_duration_since(then).as_secs_f64(),
            Measurement::Share(part, whole) => part.div_duration_f64(whole),
        }
    }
}

/// The latest samples of each source, and when they were taken.
type Samples = BTreeMap<GaugeSource, (Instant, Vec<Sample>)>;

pub(super) struct Gauges(Arc<Mutex<Samples>>);

impl Gauges {
    pub(super) fn register(meter: &Meter) -> Self {
        Self::with_clock(meter, Instant::now)
    }

    fn with_clock(
        meter: &Meter,
        clock: impl Fn() -> Instant + Clone + Send + Sync + 'static,
    ) -> Self {
        let gauges = Self(Arc::default());
        for metric in METRICS.iter().filter(|metric| metric.kind == Instrument::Gauge) {
            let (seen, clock) = (Self(Arc::clone(&gauges.0)), clock.clone());
            // The meter keeps the callback.
            let _gauge = meter
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

    /// Replaces the samples of one source.
    pub(super) fn set(&self, source: GaugeSource, now: Instant, samples: Vec<Sample>) {
        self.lock().insert(source, (now, samples));
    }

    pub(super) fn clear(&self) {
        self.lock().retain(|source, _| *source == GaugeSource::Start);
    }

    fn lock(&self) -> MutexGuard<'_, Samples> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
