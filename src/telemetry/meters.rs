//! Counters and histograms, created once. Gauges are in `gauges`. Never reads a value.

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};

use super::{
    catalog::{self, Instrument, Metric},
    words,
};

pub(super) struct Meters {
    pub(super) http_duration: Histogram<f64>,
    pub(super) http_active: UpDownCounter<i64>,
    pub(super) received: Counter<u64>,
    pub(super) sent: Counter<u64>,
    pub(super) stream_duration: Histogram<f64>,
    pub(super) consumed: Counter<u64>,
    pub(super) process_duration: Histogram<f64>,
    pub(super) processed: Counter<u64>,
    pub(super) amount: Counter<u64>,
    pub(super) end_to_end: Histogram<f64>,
    pub(super) queue_wait: Histogram<f64>,
    pub(super) batch_size: Histogram<u64>,
    pub(super) retries: Counter<u64>,
    pub(super) redeliveries: Counter<u64>,
    pub(super) fenced: Counter<u64>,
    pub(super) moves: Counter<u64>,
    pub(super) ledger_duration: Histogram<f64>,
    pub(super) pool_wait: Histogram<f64>,
}

impl Meters {
    pub(super) fn new(meter: &Meter) -> Self {
        let counter = |metric: &Metric| {
            let counter = meter.u64_counter(metric.name).with_unit(metric.unit);
            counter.with_description(metric.description).build()
        };
        let histogram = |metric: &Metric| {
            let histogram = meter.f64_histogram(metric.name).with_unit(metric.unit);
            let histogram = histogram.with_description(metric.description);
            histogram.with_boundaries(bounds(metric)).build()
        };
        // A counter that begins at its first event hides that event from rates.
        let from_zero = |metric: &Metric, key: &'static str, values: &[&'static str]| {
            let counter = counter(metric);
            values.iter().for_each(|value| counter.add(0, &[KeyValue::new(key, *value)]));
            counter
        };
        let plain = |metric: &Metric| {
            let counter = counter(metric);
            counter.add(0, &[]);
            counter
        };
        let batch_size = &catalog::BATCH_SIZE;
        let http_active = &catalog::HTTP_ACTIVE;
        Self {
            http_duration: histogram(&catalog::HTTP_DURATION),
            http_active: meter
                .i64_up_down_counter(http_active.name)
                .with_unit(http_active.unit)
                .with_description(http_active.description)
                .build(),
            received: from_zero(&catalog::RECEIVED, words::OUTCOME, words::RECEIVED),
            sent: counter(&catalog::SENT),
            stream_duration: histogram(&catalog::STREAM_DURATION),
            consumed: counter(&catalog::CONSUMED),
            process_duration: histogram(&catalog::PROCESS_DURATION),
            processed: from_zero(&catalog::PROCESSED, words::OUTCOME, &words::processed()),
            amount: plain(&catalog::AMOUNT),
            end_to_end: histogram(&catalog::END_TO_END),
            queue_wait: histogram(&catalog::QUEUE_WAIT),
            batch_size: meter
                .u64_histogram(batch_size.name)
                .with_unit(batch_size.unit)
                .with_description(batch_size.description)
                .with_boundaries(bounds(batch_size))
                .build(),
            retries: from_zero(&catalog::RETRIES, words::REASON, words::REASONS),
            redeliveries: plain(&catalog::REDELIVERIES),
            fenced: plain(&catalog::FENCED),
            moves: from_zero(&catalog::MOVES, words::MOVE, words::MOVES),
            ledger_duration: histogram(&catalog::LEDGER_DURATION),
            pool_wait: histogram(&catalog::POOL_WAIT),
        }
    }
}

fn bounds(metric: &Metric) -> Vec<f64> {
    match metric.kind {
        Instrument::Histogram(bounds) => bounds.to_vec(),
        Instrument::Counter | Instrument::UpDownCounter | Instrument::Gauge => Vec::new(),
    }
}
