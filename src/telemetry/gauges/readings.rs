//! Which metric says what of that which was seen. A table: each line reads one
//! metric's values out of what is fresh, and says nothing where it is missing.

use std::time::Duration;

use opentelemetry::KeyValue;

use super::{
    View,
    seen::{LedgerSeen, ProcessSeen, StreamSeen, StreamsSeen},
};
use crate::telemetry::{
    catalog::{self, Metric},
    words,
};

/// Takes a value, and what tells it apart.
type Say<'a> = &'a mut dyn FnMut(f64, &[KeyValue]);

/// What reads one metric.
type Read = fn(&View<'_>, Say<'_>);

/// Every gauge.
pub(super) const READINGS: &[(&Metric, Read)] = &[
    (&catalog::QUEUE_DEPTH, |view, say| {
        queue(view, say, |streams| streams.partitions.iter().map(StreamSeen::depth).sum());
    }),
    (&catalog::QUEUE_LAG, |view, say| {
        queue(view, say, |streams| streams.partitions.iter().map(|one| one.lag).sum());
    }),
    (&catalog::QUEUE_PENDING, |view, say| {
        queue(view, say, |streams| Some(streams.partitions.iter().map(|one| one.pending).sum()));
    }),
    (&catalog::QUEUE_LENGTH, |view, say| {
        let lengths = |streams: &StreamsSeen| streams.partitions.iter().map(|one| one.length).sum();
        view.streams.map(lengths).into_iter().for_each(|length| say(whole(length), &destination()));
    }),
    (&catalog::QUEUE_OLDEST, |view, say| {
        let waits = |streams: &StreamsSeen| -> Option<Duration> {
            let waits: Option<Vec<_>> = streams.partitions.iter().map(|one| one.waiting).collect();
            waits?.into_iter().max()
        };
        let longest = view.streams.and_then(waits);
        longest.into_iter().for_each(|wait| say(wait.as_secs_f64(), &group()));
    }),
    (&catalog::QUEUE_CONSUMERS, |view, say| {
        view.ledger.into_iter().for_each(|ledger| say(count(ledger.workers), &group()));
    }),
    (&catalog::DEAD_LETTERS, |view, say| {
        view.ledger.into_iter().for_each(|seen| say(whole(seen.dead_letters), &destination()));
    }),
    (&catalog::PARTITION_DEPTH, |view, say| {
        partitions(view, say, |one| one.depth().map(whole));
    }),
    (&catalog::PARTITION_LAG, |view, say| partitions(view, say, |one| one.lag.map(whole))),
    (&catalog::PARTITION_PENDING, |view, say| {
        partitions(view, say, |one| Some(whole(one.pending)));
    }),
    (&catalog::PARTITION_OLDEST, |view, say| {
        partitions(view, say, |one| one.waiting.map(|wait| wait.as_secs_f64()));
    }),
    (&catalog::PARTITION_EPOCH, |view, say| {
        let epochs = view.ledger.into_iter().flat_map(|ledger| &ledger.epochs);
        epochs.for_each(|(partition, epoch)| say(whole(*epoch), &[number(*partition)]));
    }),
    (&catalog::OWNERLESS, |view, say| ledger(view, say, |seen| count(seen.ownerless))),
    (&catalog::PARTITIONS, |view, say| ledger(view, say, |seen| count(seen.partitions))),
    (&catalog::SUSPENSE, |view, say| ledger(view, say, |seen| whole(seen.suspense))),
    (&catalog::CONFLICTS, |view, say| ledger(view, say, |seen| whole(seen.conflicts))),
    (&catalog::PARKED, |view, say| ledger(view, say, |seen| whole(seen.parked))),
    (&catalog::LOSSES, |view, say| ledger(view, say, |seen| whole(seen.losses))),
    (&catalog::TRIM_AGE, |view, say| {
        let oldest = view.streams.and_then(|streams| streams.oldest_kept);
        oldest.into_iter().for_each(|age| say(age.as_secs_f64(), &[]));
    }),
    (&catalog::REDIS_USED, |view, say| {
        view.streams.into_iter().for_each(|streams| say(bytes(streams.memory_used), &[]));
    }),
    (&catalog::REDIS_LIMIT, |view, say| {
        view.streams.into_iter().for_each(|streams| say(bytes(streams.memory_limit), &[]));
    }),
    (&catalog::CUSTOMERS, |view, say| {
        view.customers.into_iter().for_each(|customers| say(whole(customers.all), &[]));
    }),
    (&catalog::CUSTOMERS_COMPLETED, |view, say| {
        view.customers.into_iter().for_each(|customers| say(whole(customers.completed), &[]));
    }),
    (&catalog::AUDIT_DRIFT, |view, say| {
        view.audit.into_iter().for_each(|audit| say(count(audit.drift), &[]));
    }),
    (&catalog::AUDIT_AGE, |view, say| {
        let age = view.audit.map(|audit| view.now.saturating_duration_since(audit.since));
        age.into_iter().for_each(|age| say(age.as_secs_f64(), &[]));
    }),
    (&catalog::HELD, |view, say| {
        let worker = view.process.and_then(|process| process.worker.as_ref());
        for (worker, (partition, held)) in
            worker.into_iter().flat_map(|w| w.partitions.iter().map(move |one| (w, one)))
        {
            let attributes =
                [number(*partition), KeyValue::new(words::WORKER, worker.name.clone())];
            say(yes(*held), &attributes);
        }
    }),
    (&catalog::PROGRESS_AGE, |view, say| {
        let worker = view.process.and_then(|process| process.worker.as_ref());
        worker.into_iter().for_each(|worker| {
            let attributes = [KeyValue::new(words::WORKER, worker.name.clone())];
            say(worker.progress_age.as_secs_f64(), &attributes);
        });
    }),
    (&catalog::POOL_CONNECTIONS, |view, say| {
        for pool in view.process.into_iter().flat_map(|process| &process.pools) {
            for (state, connections) in [("used", pool.used), ("idle", pool.idle)] {
                let attributes = [
                    KeyValue::new(words::POOL, pool.name),
                    KeyValue::new(words::POOL_STATE, state),
                ];
                say(f64::from(connections), &attributes);
            }
        }
    }),
    (&catalog::POOL_MAX, |view, say| {
        for pool in view.process.into_iter().flat_map(|process| &process.pools) {
            say(f64::from(pool.max), &[KeyValue::new(words::POOL, pool.name)]);
        }
    }),
    (&catalog::POOL_PENDING, |view, say| {
        for pool in view.process.into_iter().flat_map(|process| &process.pools) {
            say(f64::from(pool.waiting), &[KeyValue::new(words::POOL, pool.name)]);
        }
    }),
    (&catalog::CIRCUIT_OPEN, |view, say| {
        let circuits = view.process.into_iter().flat_map(|process| &process.circuits);
        circuits.for_each(|(dependency, open)| {
            say(yes(*open), &[KeyValue::new(words::DEPENDENCY, *dependency)]);
        });
    }),
    (&catalog::CPU, |view, say| {
        process(view, say, |seen| {
            let (used, allowed) = seen.cpu.filter(|(_, allowed)| !allowed.is_zero())?;
            Some(used.div_duration_f64(allowed))
        });
    }),
    (&catalog::MEMORY, |view, say| process(view, say, |seen| seen.memory.map(bytes))),
    (&catalog::MEMORY_LIMIT, |view, say| process(view, say, |seen| seen.memory_limit.map(bytes))),
    (&catalog::TASKS, |view, say| process(view, say, |seen| Some(count(seen.tasks)))),
    (&catalog::FILES, |view, say| process(view, say, |seen| seen.files.map(bytes))),
];

fn queue(view: &View<'_>, say: Say<'_>, read: fn(&StreamsSeen) -> Option<i64>) {
    let value = view.streams.and_then(read);
    value.into_iter().for_each(|value| say(whole(value), &group()));
}

fn partitions(view: &View<'_>, say: Say<'_>, read: fn(&StreamSeen) -> Option<f64>) {
    for one in view.streams.into_iter().flat_map(|streams| &streams.partitions) {
        read(one).into_iter().for_each(|value| say(value, &[number(one.partition)]));
    }
}

fn ledger(view: &View<'_>, say: Say<'_>, read: fn(&LedgerSeen) -> f64) {
    view.ledger.map(read).into_iter().for_each(|value| say(value, &[]));
}

fn process(view: &View<'_>, say: Say<'_>, read: fn(&ProcessSeen) -> Option<f64>) {
    view.process.and_then(read).into_iter().for_each(|value| say(value, &[]));
}

fn destination() -> [KeyValue; 1] {
    [KeyValue::new(words::DESTINATION_NAME, words::DESTINATION)]
}

fn group() -> [KeyValue; 2] {
    let [destination] = destination();
    [destination, KeyValue::new(words::GROUP, words::LEDGER)]
}

fn number(partition: u16) -> KeyValue {
    KeyValue::new(words::PARTITION, i64::from(partition))
}

/// Exact up to 2^53, as everything that leaves as a gauge.
fn whole(value: i64) -> f64 {
    value as f64
}

fn count(value: usize) -> f64 {
    value as f64
}

fn bytes(value: u64) -> f64 {
    value as f64
}

fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}
