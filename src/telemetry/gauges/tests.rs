//! Tests of what would be exported: every gauge of the catalogue, what is told
//! apart by what, and that nothing is said that is old or not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};

use super::*;
use crate::telemetry::catalog::{self, Kind, METRICS};

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

    fn value(&self, metric: &catalog::Metric) -> Option<f64> {
        let points = self.points_after(self.seconds.load(Ordering::Relaxed));
        Some(points.get(metric.name)?[0].1)
    }
}

fn stream(partition: u16, lag: Option<i64>) -> StreamSeen {
    let waiting = Some(Duration::from_secs(u64::from(partition) + 1));
    StreamSeen { partition, length: 9, lag, pending: 2, waiting }
}

fn streams() -> StreamsSeen {
    StreamsSeen {
        partitions: vec![stream(0, Some(3)), stream(1, Some(4))],
        oldest_kept: Some(Duration::from_secs(7)),
        memory_used: 1_000,
        memory_limit: 0,
    }
}

fn process() -> ProcessSeen {
    ProcessSeen {
        cpu: Some((Duration::from_secs(3), Duration::from_secs(10))),
        memory: Some(5),
        memory_limit: Some(6),
        files: Some(7),
        tasks: 8,
        circuits: vec![("redis", true), ("postgresql", false)],
        pools: vec![PoolSeen { name: "queries", used: 1, idle: 2, max: 10, waiting: 4 }],
        worker: Some(WorkerSeen {
            name: "ada".to_owned(),
            partitions: BTreeMap::from([(0, true), (1, false)]),
            progress_age: Duration::from_millis(1_500),
        }),
    }
}

fn see_everything(sights: &mut Sights, now: Instant) {
    let ledger = LedgerSeen { epochs: vec![(0, 5), (1, 6)], workers: 2, ..LedgerSeen::default() };
    sights.streams.put(now, Some(streams()));
    sights.ledger.put(now, Some(ledger));
    sights.customers.put(now, Some(CustomersSeen { all: 9, completed: 4 }));
    sights.audit.put(now, Some(AuditSeen { drift: 1, since: now }));
    sights.process.put(now, Some(process()));
}

#[test]
fn every_gauge_is_exported_under_its_attributes() {
    let exported = Exported::new();
    assert_eq!(exported.points_after(0), Points::new(), "nothing before anybody looked");
    exported.gauges.put(|sights| see_everything(sights, exported.start));
    let points = exported.points_after(0);
    let gauges = METRICS.iter().filter(|metric| metric.kind == Kind::Gauge);
    for metric in gauges.clone() {
        let found = points.get(metric.name).unwrap_or_else(|| panic!("{}", metric.name));
        let wanted: BTreeSet<&str> = metric.attributes.iter().copied().collect();
        for (attributes, _) in found {
            let names: BTreeSet<&str> = attributes.keys().map(String::as_str).collect();
            assert_eq!(names, wanted, "{}", metric.name);
        }
    }
    assert_eq!(points.len(), gauges.count());
}

#[test]
fn values_are_those_that_were_seen() {
    let exported = Exported::new();
    exported.gauges.put(|sights| see_everything(sights, exported.start));
    let expected = [
        (&catalog::QUEUE_DEPTH, 11.0),
        (&catalog::QUEUE_LAG, 7.0),
        (&catalog::QUEUE_PENDING, 4.0),
        (&catalog::QUEUE_LENGTH, 18.0),
        (&catalog::QUEUE_OLDEST, 2.0),
        (&catalog::QUEUE_CONSUMERS, 2.0),
        (&catalog::PARTITION_DEPTH, 5.0),
        (&catalog::PARTITION_OLDEST, 1.0),
        (&catalog::TRIM_AGE, 7.0),
        (&catalog::REDIS_LIMIT, 0.0),
        (&catalog::CUSTOMERS_COMPLETED, 4.0),
        (&catalog::PROGRESS_AGE, 1.5),
        (&catalog::CPU, 0.3),
        (&catalog::AUDIT_AGE, 0.0),
    ];
    for (metric, value) in expected {
        // Points come in no order; all but the first partition's are alike.
        let points = exported.points_after(0);
        let found = points[metric.name].iter().map(|(_, value)| *value).fold(f64::MAX, f64::min);
        assert_eq!(found, value, "{}", metric.name);
    }
    let held = &exported.points_after(0)[catalog::HELD.name];
    let of = |partition: &str| held.iter().find(|(a, _)| a["paystream.partition"] == partition);
    assert_eq!((of("0").unwrap().1, of("1").unwrap().1), (1.0, 0.0));
}

#[test]
fn what_is_old_or_was_not_seen_is_not_said() {
    let exported = Exported::new();
    exported.gauges.put(|sights| see_everything(sights, exported.start));
    assert!(exported.points_after(30).contains_key(catalog::QUEUE_LAG.name));
    let points = exported.points_after(31);
    let left: Vec<&str> = points.keys().map(String::as_str).collect();
    assert_eq!(
        left,
        [
            "paystream.audit.age",
            "paystream.audit.drift",
            "paystream.customers",
            "paystream.customers.completed"
        ],
        "what is looked for once a minute"
    );
    assert_eq!(exported.value(&catalog::AUDIT_AGE), Some(31.0), "it goes on between looks");
    assert_eq!(exported.points_after(181), Points::new());

    // A look at which a store did not answer.
    exported.gauges.put(|sights| see_everything(sights, exported.start));
    exported.gauges.put(|sights| sights.streams.put(exported.start, None));
    let points = exported.points_after(1);
    assert!(!points.contains_key(catalog::QUEUE_LAG.name));
    assert!(!points.contains_key(catalog::REDIS_USED.name));
    assert!(points.contains_key(catalog::OWNERLESS.name), "the other store did");
}

#[test]
fn a_partition_that_is_gone_vanishes_and_one_unknown_makes_the_sum_unknown() {
    let exported = Exported::new();
    let put = |seen| exported.gauges.put(|sights| sights.streams.put(exported.start, Some(seen)));
    put(streams());
    assert_eq!(exported.points_after(1)[catalog::PARTITION_LAG.name].len(), 2);
    put(StreamsSeen { partitions: vec![stream(0, Some(3))], ..streams() });
    assert_eq!(exported.points_after(2)[catalog::PARTITION_LAG.name].len(), 1);

    put(StreamsSeen { partitions: vec![stream(0, Some(3)), stream(1, None)], ..streams() });
    let points = exported.points_after(3);
    assert_eq!(points[catalog::PARTITION_LAG.name].len(), 1);
    assert_eq!(points[catalog::PARTITION_PENDING.name].len(), 2);
    assert!(!points.contains_key(catalog::QUEUE_LAG.name));
    assert!(!points.contains_key(catalog::QUEUE_DEPTH.name));
    assert!(points.contains_key(catalog::QUEUE_PENDING.name));
}
