//! Tests of what would be exported: each value under its attributes, and nothing that is
//! old or could not be seen.

use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};

use super::*;
use crate::telemetry::catalog;

/// Gauges that look at a clock of their own, and what they export.
struct Exported {
    gauges: Gauges,
    start: Instant,
    seconds: Arc<AtomicU64>,
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

/// By metric: the attributes of each point, and its value.
type Points = BTreeMap<String, Vec<(BTreeMap<String, String>, f64)>>;

impl Exported {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let (start, seconds) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let passed = Arc::clone(&seconds);
        let clock = move || start + Duration::from_secs(passed.load(Ordering::Relaxed));
        let gauges = Gauges::with_clock(&provider.meter("paystream"), clock);
        Self { gauges, start, seconds, provider, exporter }
    }

    fn saw(&self, source: GaugeSource, samples: Vec<Sample>) {
        self.gauges.set(source, self.start, samples);
    }

    fn points_after(&self, seconds: u64) -> Points {
        self.seconds.store(seconds, Ordering::Relaxed);
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let exported = self.exporter.get_finished_metrics().unwrap();
        let scopes = exported.iter().flat_map(|resource| resource.scope_metrics());
        let mut points = Points::new();
        for metric in scopes.flat_map(|scope| scope.metrics()) {
            let AggregatedMetrics::F64(MetricData::Gauge(gauge)) = metric.data() else {
                panic!("{} is no gauge", metric.name());
            };
            let found = gauge.data_points().map(|point| {
                let attributes = point.attributes();
                let attributes = attributes.map(|one| (one.key.to_string(), one.value.to_string()));
                (attributes.collect(), point.value())
            });
            points.entry(metric.name().to_owned()).or_default().extend(found);
        }
        points.retain(|_, found| !found.is_empty());
        points
    }
}

#[test]
fn values_are_exported_under_their_attributes_while_they_are_fresh() {
    let exported = Exported::new();
    assert_eq!(exported.points_after(0), Points::new(), "nothing before anybody looked");
    let lag = |partition: u16, lag: i64| {
        Sample::count(&catalog::PARTITION_LAG, lag).by(words::PARTITION, i64::from(partition))
    };
    let queue = Sample::count(&catalog::QUEUE_LAG, 7);
    exported.saw(GaugeSource::Redis, vec![queue, lag(0, 3), lag(1, 4)]);
    exported.saw(GaugeSource::Postgresql, vec![Sample::count(&catalog::OWNERLESS, 2_usize)]);
    exported.saw(GaugeSource::Audit, vec![Sample::since(&catalog::AUDIT_AGE, exported.start)]);
    let (part, whole) = (Duration::from_secs(3), Duration::from_secs(10));
    exported.saw(
        GaugeSource::Process,
        vec![
            Sample::share(&catalog::CPU, part, whole),
            Sample::time(&catalog::PROGRESS_AGE, Duration::from_millis(1_500)),
        ],
    );
    let points = exported.points_after(30);
    let lags = &points[catalog::PARTITION_LAG.name];
    let of = |partition: &str| lags.iter().find(|(a, _)| a["paystream.partition"] == partition);
    assert_eq!((of("0").unwrap().1, of("1").unwrap().1, lags.len()), (3.0, 4.0, 2));
    let (attributes, value) = &points[catalog::QUEUE_LAG.name][0];
    assert_eq!((attributes["messaging.consumer.group.name"].as_str(), *value), ("ledger", 7.0));
    assert_eq!(points[catalog::CPU.name][0].1, 0.3);
    assert_eq!(points[catalog::PROGRESS_AGE.name][0].1, 1.5);
    assert_eq!(points[catalog::AUDIT_AGE.name][0].1, 30.0, "it goes on between looks");

    let points = exported.points_after(31);
    assert_eq!(points.keys().collect::<Vec<_>>(), [catalog::AUDIT_AGE.name], "looked for rarely");
    assert_eq!(exported.points_after(180)[catalog::AUDIT_AGE.name][0].1, 180.0);
    assert_eq!(exported.points_after(181), Points::new());

    // A partition is gone; then Redis does not answer.
    exported.saw(GaugeSource::Redis, vec![lag(0, 3)]);
    assert_eq!(exported.points_after(1)[catalog::PARTITION_LAG.name].len(), 1);
    exported.saw(GaugeSource::Redis, Vec::new());
    let points = exported.points_after(1);
    assert!(!points.contains_key(catalog::PARTITION_LAG.name));
    assert!(points.contains_key(catalog::OWNERLESS.name), "the other store did");
}
