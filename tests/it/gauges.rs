//! Proves that a running system says how it fares as it is: how deep each
//! partition is, who owns what, what the pools and the process are at; that
//! somebody says so when no worker lives; and that the running audit sees an
//! account that differs from its payments, and never one that is only being
//! changed.

use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use paystream::{
    ledger::{Rounds, Slice},
    telemetry::{
        Signals,
        catalog::{self, Metric},
    },
};
use tokio::sync::Mutex;

use crate::prelude::*;

/// Signals, and what would be exported of them.
struct Measured {
    signals: Signals,
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Measured {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        Self { signals: Signals::measuring(&provider), provider, exporter }
    }

    /// Each point of a metric: its attributes, and its value; of a histogram,
    /// how often something was measured.
    fn points(&self, metric: &Metric) -> Vec<(BTreeMap<String, String>, f64)> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let exported = self.exporter.get_finished_metrics().unwrap();
        let scopes = exported.iter().flat_map(|resource| resource.scope_metrics());
        let mut points = Vec::new();
        for found in scopes.flat_map(|scope| scope.metrics()).filter(|m| m.name() == metric.name) {
            let AggregatedMetrics::F64(data) = found.data() else { continue };
            let named = |attributes: &mut dyn Iterator<Item = &KeyValue>| {
                attributes.map(|one| (one.key.to_string(), one.value.to_string())).collect()
            };
            if let MetricData::Gauge(gauge) = data {
                points.extend(gauge.data_points().map(|p| (named(&mut p.attributes()), p.value())));
            } else if let MetricData::Histogram(histogram) = data {
                let counted = histogram.data_points();
                points.extend(counted.map(|p| (named(&mut p.attributes()), p.count() as f64)));
            }
        }
        points
    }

    /// The value of the one point with this attribute, or of the only one.
    fn value(&self, metric: &Metric, attribute: Option<(&str, &str)>) -> Option<f64> {
        let mut points = self.points(metric);
        if let Some((name, wanted)) = attribute {
            points.retain(|(attributes, _)| attributes.get(name).is_some_and(|v| v == wanted));
        }
        assert!(points.len() <= 1, "{}: {points:?}", metric.name);
        points.pop().map(|(_, value)| value)
    }

    async fn until(&self, metric: &Metric, attribute: Option<(&str, &str)>, wanted: f64) {
        let what = format!("{} {attribute:?} is {wanted}", metric.name);
        until(&what, async || self.value(metric, attribute) == Some(wanted)).await;
    }
}

const PARTITION: &str = "paystream.partition";

#[tokio::test(flavor = "multi_thread")]
async fn depths_and_owners_are_said_while_workers_come_and_die() {
    let (gateway, worker) = (Measured::new(), Measured::new());
    let settings = ["--lease=2s", "--batch-deadline=1s", "--audit-pace=0"];
    let stores = Stores::new().await;
    let signals = (gateway.signals.clone(), worker.signals.clone());
    let mut harness = Harness::measured(stores, &settings, signals.0, signals.1).await;
    harness.api.open_account("ADA", "1000").await;
    let mut partition = 0;
    for number in 0..5 {
        let place = harness.api.pay(&format!("r{number}"), "ADA", "10").await;
        partition = place["partition"].as_u64().unwrap();
    }
    let name = partition.to_string();
    let at = Some((PARTITION, name.as_str()));

    // No worker lives: the gateway says so.
    gateway.until(&catalog::PARTITION_LAG, at, 5.0).await;
    gateway.until(&catalog::OWNERLESS, None, f64::from(PARTITIONS)).await;
    assert_eq!(gateway.value(&catalog::QUEUE_DEPTH, None), Some(5.0));
    assert_eq!(gateway.value(&catalog::QUEUE_CONSUMERS, None), Some(0.0));
    assert_eq!(gateway.points(&catalog::PARTITION_DEPTH).len(), usize::from(PARTITIONS));

    // Somebody takes two and does not acknowledge them.
    harness.stores.hand_out(partition, "ledger", "nobody", 2).await;
    gateway.until(&catalog::PARTITION_PENDING, at, 2.0).await;
    assert_eq!(gateway.value(&catalog::PARTITION_LAG, at), Some(3.0));
    assert_eq!(gateway.value(&catalog::PARTITION_DEPTH, at), Some(5.0));
    assert!(worker.points(&catalog::OWNERLESS).is_empty(), "it has not started");

    harness.start_worker();
    gateway.until(&catalog::OWNERLESS, None, 0.0).await;
    gateway.until(&catalog::QUEUE_DEPTH, None, 0.0).await;
    worker.until(&catalog::HELD, at, 1.0).await;
    assert!(gateway.points(&catalog::HELD).is_empty(), "it serves none");
    worker.until(&catalog::QUEUE_CONSUMERS, None, 1.0).await;
    until("the worker sees an epoch", async || {
        worker.value(&catalog::PARTITION_EPOCH, at) >= Some(1.0)
    })
    .await;
    assert!(worker.value(&catalog::PROGRESS_AGE, None).is_some());

    // What the process says of itself.
    let pool = Some(("db.client.connection.pool.name", "queries"));
    assert_eq!(gateway.value(&catalog::POOL_MAX, pool), Some(4.0));
    // A question may just wait for its connection when this is looked at.
    gateway.until(&catalog::POOL_PENDING, pool, 0.0).await;
    harness.api.payment("r0").await;
    assert!(gateway.value(&catalog::POOL_WAIT, pool) >= Some(1.0));
    let redis = Some(("paystream.dependency", "redis"));
    assert_eq!(gateway.value(&catalog::CIRCUIT_OPEN, redis), Some(0.0));
    assert!(gateway.value(&catalog::TASKS, None) > Some(0.0));
    assert!(gateway.value(&catalog::REDIS_USED, None) > Some(0.0));
    assert!(gateway.value(&catalog::CUSTOMERS, None).is_some());
    #[cfg(target_os = "linux")]
    for metric in [&catalog::CPU, &catalog::MEMORY, &catalog::MEMORY_LIMIT, &catalog::FILES] {
        assert!(gateway.value(metric, None) > Some(0.0), "{}", metric.name);
    }

    harness.crash_worker();
    gateway.until(&catalog::OWNERLESS, None, f64::from(PARTITIONS)).await;
    assert_eq!(gateway.value(&catalog::QUEUE_CONSUMERS, None), Some(0.0));
    harness.stop().await.audit().await;
    assert!(gateway.points(&catalog::OWNERLESS).is_empty(), "nobody looks any more");
}

const DAMAGE: &str =
    "update customer_accounts set total_paid = total_paid + 1 where customer_id = 'GIG00002'";
const REPAIR: &str =
    "update customer_accounts set total_paid = total_paid - 1 where customer_id = 'GIG00002'";

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_said_until_it_is_mended() {
    let gateway = Measured::new();
    let stores = Stores::new().await;
    let signals = (gateway.signals.clone(), Signals::off());
    let settings = ["--audit-pace=1000"];
    let harness = Harness::measured(stores, &settings, signals.0, signals.1).await;
    harness.api.seed(3).await;
    gateway.until(&catalog::AUDIT_DRIFT, None, 0.0).await;
    harness.stores.sql(DAMAGE).await;
    gateway.until(&catalog::AUDIT_DRIFT, None, 1.0).await;
    assert!(gateway.value(&catalog::AUDIT_AGE, None).is_some());
    harness.stores.sql(REPAIR).await;
    gateway.until(&catalog::AUDIT_DRIFT, None, 0.0).await;
}

/// One whole round, in slices of three accounts.
async fn round(rounds: &mut Rounds) -> Vec<Slice> {
    let mut slices = Vec::new();
    loop {
        let slice = rounds.next(3).await.unwrap().expect("nobody else audits");
        let end = slice.before.is_none();
        slices.push(slice);
        if end {
            return slices;
        }
    }
}

fn differing(slices: &[Slice]) -> Vec<&str> {
    slices.iter().flat_map(|slice| &slice.differing).map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_see_what_differs_and_not_what_is_being_changed() {
    let harness = Harness::with(&["--audit-pace=0", "--batch-max=5"]).await;
    harness.api.seed(10).await;
    let ledger = Ledger::new(&harness.stores.database_url).unwrap();
    let mut rounds = ledger.rounds();

    let mut load = JoinSet::new();
    for sender in 0..4 {
        let api = harness.api.clone();
        load.spawn(async move {
            for number in 0..100 {
                let customer = format!("GIG{:05}", 1 + number % 10);
                api.pay(&format!("s{sender}-{number}"), &customer, "1.00").await;
            }
        });
    }
    let mut complete = 0;
    while complete < 3 || !load.is_empty() {
        let slices = round(&mut rounds).await;
        assert!(differing(&slices).is_empty(), "{slices:?}");
        assert_eq!(slices.iter().map(|slice| slice.accounts).sum::<u64>(), 10);
        assert_eq!(slices.len(), 4);
        complete += 1;
        while let Some(ended) = load.try_join_next() {
            ended.unwrap();
        }
    }
    harness.settled().await;

    // One at a time.
    let mut other = ledger.rounds();
    assert_eq!(other.next(3).await.unwrap(), None);

    harness.stores.sql(DAMAGE).await;
    let slices = round(&mut rounds).await;
    assert_eq!(differing(&slices), ["GIG00002"]);
    let found: Vec<bool> = slices.iter().map(|slice| slice.covers("GIG00002")).collect();
    assert_eq!(found, [true, false, false, false]);
    harness.stores.sql(REPAIR).await;
    assert!(differing(&round(&mut rounds).await).is_empty());

    // A statement without an account belongs to the slice around it.
    let moved = "update customer_accounts set customer_id = 'ZOE' where customer_id = 'GIG00010'";
    harness.stores.sql(moved).await;
    assert_eq!(differing(&round(&mut rounds).await), ["GIG00010", "ZOE"]);

    // With its connection goes the lock.
    drop(rounds);
    let other = Mutex::new(other);
    let next = async || other.lock().await.next(3).await.unwrap();
    eventually("another process audits", next).await;
}
