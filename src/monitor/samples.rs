//! From what operators see to what is measured. Pure: what a store did not say
//! stays missing.

use std::time::{Duration, Instant};

use super::process::Reading;
use crate::{
    ledger::PoolUse,
    operations::{CustomerCount, PartitionLook, SystemSnapshot},
    telemetry::{
        Sample,
        catalog::{self, Metric},
        words,
    },
};

/// What Redis said, if it answered.
pub(super) fn redis(snapshot: &SystemSnapshot) -> Vec<Sample> {
    // One unknown makes the sum unknown.
    let sum = |read: fn(&PartitionLook) -> Option<i64>| {
        snapshot.partitions.iter().map(read).sum::<Option<i64>>()
    };
    let figures = &snapshot.figures;
    let oldest = figures.oldest_waiting_seconds.unwrap_or(0);
    let all_answer = snapshot.redis_available && snapshot.redis_trouble.is_none();
    let (used, limit) = (figures.redis_memory_used, figures.redis_memory_limit);
    let mut samples = known([
        (&catalog::QUEUE_DEPTH, sum(unsettled)),
        (&catalog::QUEUE_LAG, sum(|one| one.lag)),
        (&catalog::QUEUE_PENDING, sum(|one| one.pending)),
        (&catalog::QUEUE_LENGTH, sum(|one| one.depth)),
        (&catalog::QUEUE_OLDEST, all_answer.then(|| whole(oldest))),
        (&catalog::TRIM_AGE, figures.oldest_kept_seconds.map(whole)),
        (&catalog::REDIS_USED, used.map(whole)),
        (&catalog::REDIS_LIMIT, limit.map(whole)),
        (&catalog::REDIS_AOF_FAILED, figures.redis_aof_failed.map(i64::from)),
    ]);
    for one in &snapshot.partitions {
        // Where a stream is known and no entry waits, it waits for no time.
        let oldest = one.depth.map(|_| whole(one.oldest_waiting_seconds.unwrap_or(0)));
        let values = known([
            (&catalog::PARTITION_DEPTH, unsettled(one)),
            (&catalog::PARTITION_LAG, one.lag),
            (&catalog::PARTITION_PENDING, one.pending),
            (&catalog::PARTITION_OLDEST, oldest),
        ]);
        samples.extend(values.into_iter().map(|value| of(one.partition, value)));
    }
    samples
}

/// Payments accepted and not settled.
fn unsettled(one: &PartitionLook) -> Option<i64> {
    Some(one.lag?.saturating_add(one.pending?))
}

/// What PostgreSQL said, if it answered.
pub(super) fn postgresql(snapshot: &SystemSnapshot) -> Vec<Sample> {
    let figures = &snapshot.figures;
    let partitions = snapshot.ledger_available.then_some(snapshot.partitions.len());
    let mut samples = known([
        (&catalog::QUEUE_CONSUMERS, figures.workers_alive.map(whole)),
        (&catalog::PARTITIONS, partitions.map(whole)),
        (&catalog::OWNERLESS, figures.partitions_unserved.map(whole)),
        (&catalog::DEAD_LETTERS, figures.dead_letters),
        (&catalog::SUSPENSE, figures.suspense),
        (&catalog::CONFLICTS, figures.conflicts),
        (&catalog::CONFLICTS_OLDEST, figures.conflicts_oldest_seconds),
        (&catalog::PARKED, figures.parked),
        (&catalog::PARKED_OLDEST, figures.parked_oldest_seconds),
        (&catalog::LOSSES, figures.losses),
    ]);
    for one in &snapshot.partitions {
        let epoch = known([(&catalog::PARTITION_EPOCH, one.epoch)]);
        samples.extend(epoch.into_iter().map(|epoch| of(one.partition, epoch)));
    }
    samples
}

/// How many customers were counted.
pub(super) fn customers(count: CustomerCount) -> Vec<Sample> {
    vec![
        Sample::count(&catalog::CUSTOMERS, count.all),
        Sample::count(&catalog::CUSTOMERS_COMPLETED, count.completed),
    ]
}

/// How the process fares, by this reading and by processor time since the one before.
pub(super) fn process(before: Option<&Reading>, reading: Option<&Reading>) -> Vec<Sample> {
    let mut samples = known([
        (&catalog::MEMORY, reading.and_then(|reading| reading.memory).map(whole)),
        (&catalog::MEMORY_LIMIT, reading.and_then(|reading| reading.memory_limit).map(whole)),
        (&catalog::FILES, reading.and_then(|reading| reading.files).map(whole)),
    ]);
    let cpu = before.zip(reading).and_then(|(before, reading)| reading.cpu_since(before));
    let cpu = cpu.filter(|(_, allowed)| !allowed.is_zero());
    samples.extend(cpu.map(|(used, allowed)| Sample::share(&catalog::CPU, used, allowed)));
    samples
}

/// Whether the circuit of a dependency is open.
pub(super) fn circuit(dependency: &'static str, open: bool) -> Sample {
    Sample::count(&catalog::CIRCUIT_OPEN, open).by(words::DEPENDENCY, dependency)
}

/// A pool of connections to PostgreSQL.
pub(super) fn pool(name: &'static str, usage: PoolUse) -> [Sample; 4] {
    let connections = |state: &'static str, count: u32| {
        Sample::count(&catalog::POOL_CONNECTIONS, count).by(words::POOL_STATE, state)
    };
    let samples = [
        connections("used", usage.used),
        connections("idle", usage.idle),
        Sample::count(&catalog::POOL_MAX, usage.max),
        Sample::count(&catalog::POOL_PENDING, usage.waiting),
    ];
    samples.map(|sample| sample.by(words::POOL, name))
}

/// The worker of this process: partitions it serves or has given up, and for how long its
/// slowest lane has not moved.
pub(super) fn worker(
    name: &str,
    served: impl IntoIterator<Item = (u16, bool)>,
    still: Duration,
) -> Vec<Sample> {
    let held = |(partition, held)| of(partition, Sample::count(&catalog::HELD, held));
    let mut samples: Vec<Sample> = served.into_iter().map(held).collect();
    samples.push(Sample::time(&catalog::PROGRESS_AGE, still));
    samples.into_iter().map(|sample| sample.by(words::WORKER, name.to_owned())).collect()
}

/// How far the running audit has come: accounts that differed when they were last looked
/// at, and when it last came around, or began.
pub(super) fn audit(drift: usize, since: Instant) -> Vec<Sample> {
    vec![Sample::count(&catalog::AUDIT_DRIFT, drift), Sample::since(&catalog::AUDIT_AGE, since)]
}

fn known<const COUNT: usize>(values: [(&'static Metric, Option<i64>); COUNT]) -> Vec<Sample> {
    let values = values.into_iter();
    values.filter_map(|(metric, value)| Some(Sample::count(metric, value?))).collect()
}

fn whole(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn of(partition: u16, sample: Sample) -> Sample {
    sample.by(words::PARTITION, i64::from(partition))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::DateTime;

    use super::*;
    use crate::{
        operations::KeyFigures,
        telemetry::catalog::{Instrument, METRICS},
    };

    fn snapshot() -> SystemSnapshot {
        let look = |partition| PartitionLook {
            partition,
            epoch: Some(8),
            depth: Some(9),
            lag: Some(2 + i64::from(partition)),
            pending: Some(1),
            oldest_waiting_seconds: Some(4),
            ..PartitionLook::default()
        };
        let figures = KeyFigures {
            dead_letters: Some(1),
            suspense: Some(2),
            conflicts: Some(3),
            conflicts_oldest_seconds: Some(30),
            parked: Some(4),
            parked_oldest_seconds: Some(40),
            losses: Some(5),
            workers_alive: Some(6),
            partitions_unserved: Some(1),
            oldest_waiting_seconds: Some(4),
            oldest_kept_seconds: Some(7),
            redis_memory_used: Some(8),
            redis_memory_limit: Some(0),
            redis_aof_failed: Some(true),
            ..KeyFigures::default()
        };
        SystemSnapshot {
            redis_available: true,
            ledger_available: true,
            figures,
            partitions: vec![look(0), look(1)],
            ..SystemSnapshot::unknown(Instant::now(), DateTime::UNIX_EPOCH)
        }
    }

    /// The values of a metric.
    fn values(samples: &[Sample], metric: &Metric) -> Vec<f64> {
        let of = samples.iter().filter(|sample| std::ptr::eq(sample.metric, metric));
        of.map(|sample| sample.value(Instant::now())).collect()
    }

    fn process_samples() -> Vec<Sample> {
        let start = Instant::now();
        let before = super::super::process::tests::reading(start, 1);
        let after = super::super::process::tests::reading(start + Duration::from_secs(5), 4);
        let mut samples = process(Some(&before), Some(&after));
        let usage = PoolUse { used: 1, idle: 2, max: 10, waiting: 4 };
        samples.extend(pool("queries", usage));
        samples.extend(worker("ada", [(0, true), (1, false)], Duration::from_millis(1_500)));
        samples.push(circuit("redis", true));
        samples.push(Sample::count(&catalog::BACKLOG_LIMIT, 900));
        samples.push(Sample::count(&catalog::TASKS, 8));
        samples
    }

    #[test]
    fn every_gauge_is_sampled_under_its_attributes() {
        let snapshot = snapshot();
        let samples = [
            redis(&snapshot),
            postgresql(&snapshot),
            customers(CustomerCount { all: 9, completed: 4 }),
            audit(1, Instant::now()),
            process_samples(),
        ];
        let samples = samples.concat();
        for metric in METRICS.iter().filter(|metric| metric.kind == Instrument::Gauge) {
            // Said by whoever starts the process.
            if std::ptr::eq(*metric, &catalog::UPTIME) {
                continue;
            }
            assert!(!values(&samples, metric).is_empty(), "{}", metric.name);
        }
        for sample in &samples {
            let names: BTreeSet<&str> = sample.attributes().collect();
            let wanted: BTreeSet<&str> = sample.metric.attributes.iter().copied().collect();
            assert_eq!(names, wanted, "{}", sample.metric.name);
        }
    }

    #[test]
    fn what_was_said_is_what_is_measured() {
        let (redis, postgresql) = (redis(&snapshot()), postgresql(&snapshot()));
        let process = process_samples();
        for (samples, metric, wanted) in [
            (&redis, &catalog::QUEUE_DEPTH, &[7.0][..]),
            (&redis, &catalog::QUEUE_LAG, &[5.0]),
            (&redis, &catalog::QUEUE_PENDING, &[2.0]),
            (&redis, &catalog::QUEUE_LENGTH, &[18.0]),
            (&redis, &catalog::QUEUE_OLDEST, &[4.0]),
            (&redis, &catalog::PARTITION_DEPTH, &[3.0, 4.0]),
            (&redis, &catalog::PARTITION_OLDEST, &[4.0, 4.0]),
            (&redis, &catalog::TRIM_AGE, &[7.0]),
            (&redis, &catalog::REDIS_LIMIT, &[0.0]),
            (&postgresql, &catalog::QUEUE_CONSUMERS, &[6.0]),
            (&postgresql, &catalog::PARTITIONS, &[2.0]),
            (&postgresql, &catalog::PARTITION_EPOCH, &[8.0, 8.0]),
            (&postgresql, &catalog::LOSSES, &[5.0]),
            (&process, &catalog::CPU, &[0.3]),
            (&redis, &catalog::REDIS_AOF_FAILED, &[1.0]),
            (&postgresql, &catalog::CONFLICTS_OLDEST, &[30.0]),
            (&postgresql, &catalog::PARKED_OLDEST, &[40.0]),
            (&process, &catalog::BACKLOG_LIMIT, &[900.0]),
            (&process, &catalog::PROGRESS_AGE, &[1.5]),
            (&process, &catalog::HELD, &[1.0, 0.0]),
        ] {
            assert_eq!(values(samples, metric), wanted, "{}", metric.name);
        }
    }

    #[test]
    fn nothing_stands_for_what_a_store_did_not_say() {
        let silent = SystemSnapshot {
            redis_available: false,
            ledger_available: false,
            figures: KeyFigures::default(),
            partitions: vec![PartitionLook::default(); 2],
            ..snapshot()
        };
        assert!(redis(&silent).is_empty() && postgresql(&silent).is_empty());

        // The lag of one partition is not known; nothing waits in it.
        let mut damaged = snapshot();
        (damaged.partitions[1].lag, damaged.partitions[1].oldest_waiting_seconds) = (None, None);
        let samples = redis(&damaged);
        assert_eq!(values(&samples, &catalog::PARTITION_LAG), [2.0]);
        assert_eq!(values(&samples, &catalog::PARTITION_PENDING), [1.0, 1.0]);
        assert_eq!(values(&samples, &catalog::PARTITION_OLDEST), [4.0, 0.0]);
        assert_eq!(values(&samples, &catalog::QUEUE_PENDING), [2.0]);
        assert!(values(&samples, &catalog::QUEUE_LAG).is_empty());
        assert!(values(&samples, &catalog::QUEUE_DEPTH).is_empty());
    }
}
