//! Every metric with its name, unit and attributes. Names follow OpenTelemetry's semantic
//! conventions where there is one. Dashboards, alerts and the RUNBOOK are tested against this
//! list. Measures nothing.

#[derive(Debug)]
pub struct Metric {
    /// The name in OpenTelemetry.
    pub name: &'static str,
    pub kind: Instrument,
    /// In UCUM.
    pub unit: &'static str,
    /// Never a reference, a customer or an amount.
    pub attributes: &'static [&'static str],
    pub description: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instrument {
    Counter,
    UpDownCounter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Metric {
    /// The name that the collector gives it in Prometheus; a histogram's has `_bucket`, `_sum`
    /// and `_count` behind it.
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        name += match (self.unit, self.kind) {
            ("s", _) => "_seconds",
            ("By", _) => "_bytes",
            ("1", Instrument::Gauge) => "_ratio",
            _ => "",
        };
        if self.kind == Instrument::Counter {
            name += "_total";
        }
        name
    }
}

/// Buckets in seconds: those of the semantic conventions, and finer ones below them.
pub const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Buckets in seconds for times that an outage can make long.
pub const LONG_SECONDS: &[f64] = &[
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    1800.0,
];
/// Buckets of batch sizes.
pub const SIZES: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0, 5000.0];

/// Declares every metric once, as a constant and in the list.
macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:expr, $unit:literal, [$($attribute:literal),*], $text:literal;)*) => {
        $(
            #[doc = $text]
            pub static $id: Metric = Metric {
                name: $name,
                kind: $kind,
                unit: $unit,
                attributes: &[$($attribute),*],
                description: $text,
            };
        )*
        pub static METRICS: &[&Metric] = &[$(&$id),*];
    };
}

use Instrument::{Counter, Gauge, Histogram, UpDownCounter};

metrics! {
    // The gateway.
    HTTP_DURATION = "http.server.request.duration", Histogram(SECONDS), "s",
        ["http.request.method", "http.route", "http.response.status_code"],
        "Duration of HTTP requests.";
    HTTP_ACTIVE = "http.server.active_requests", UpDownCounter, "{request}",
        ["http.request.method"],
        "HTTP requests in progress.";
    RECEIVED = "paystream.payments.received", Counter, "{payment}",
        ["paystream.outcome"],
        "Payments received over HTTP: accepted, duplicate, conflict, invalid, overloaded or error.";
    SENT = "messaging.client.sent.messages", Counter, "{message}",
        ["messaging.destination.name", "messaging.operation.name", "messaging.system"],
        "Entries appended to the streams.";
    STREAM_DURATION = "messaging.client.operation.duration", Histogram(SECONDS), "s",
        ["messaging.destination.name", "messaging.operation.name", "messaging.system", "error.type"],
        "Duration of Redis operations: send, receive, ack.";
    // The worker.
    CONSUMED = "messaging.client.consumed.messages", Counter, "{message}",
        ["messaging.destination.name", "messaging.operation.name", "messaging.system", "messaging.consumer.group.name"],
        "Entries taken from the streams, redelivered ones included.";
    PROCESS_DURATION = "messaging.process.duration", Histogram(SECONDS), "s",
        ["messaging.destination.name", "messaging.operation.name", "messaging.system", "messaging.consumer.group.name", "error.type"],
        "Duration of settling a batch, from taking it to acknowledging it.";
    PROCESSED = "paystream.payments.processed", Counter, "{payment}",
        ["paystream.outcome"],
        "Payments that workers settled or set aside: applied, recorded, rejected, suspense, parked, conflict, duplicate, redelivered or dead_lettered.";
    AMOUNT = "paystream.payments.amount", Counter, "{minor_unit}",
        [],
        "Money that workers applied to accounts, in hundredths.";
    END_TO_END = "paystream.payment.end_to_end.duration", Histogram(LONG_SECONDS), "s",
        [],
        "Time from receipt by the gateway to the commit in the ledger.";
    QUEUE_WAIT = "paystream.payment.wait.duration", Histogram(LONG_SECONDS), "s",
        [],
        "Time from receipt by the gateway to a worker taking the entry.";
    BATCH_SIZE = "paystream.batch.size", Histogram(SIZES), "{payment}",
        [],
        "Payments in one transaction.";
    RETRIES = "paystream.retries", Counter, "{retry}",
        ["paystream.retry.reason"],
        "Batches tried again: redis_outage, postgresql_outage, locked, deadline, raced, entry, state_lost or unexpected.";
    REDELIVERIES = "paystream.redeliveries", Counter, "{message}",
        [],
        "Entries that were delivered again.";
    FENCED = "paystream.fenced.refusals", Counter, "{refusal}",
        [],
        "Refusals of a worker that no longer owns a partition.";
    MOVES = "paystream.partition.moves", Counter, "{move}",
        ["paystream.move"],
        "Changes of partition owners: acquired, released or lost.";
    HELD = "paystream.partition.held", Gauge, "{partition}",
        ["paystream.partition", "paystream.worker"],
        "1 while this worker serves the partition, 0 afterwards.";
    PROGRESS_AGE = "paystream.worker.progress.age", Gauge, "s",
        ["paystream.worker"],
        "Time since the slowest lane last settled a batch, found nothing waiting, or found a store unavailable.";
    LEDGER_DURATION = "db.client.operation.duration", Histogram(SECONDS), "s",
        ["db.system.name", "db.operation.name", "error.type"],
        "Duration of PostgreSQL operations: a batch's transaction, or a query of the gateway.";
    POOL_CONNECTIONS = "db.client.connection.count", Gauge, "{connection}",
        ["db.client.connection.pool.name", "db.client.connection.state"],
        "Connections to PostgreSQL, used and idle.";
    POOL_MAX = "db.client.connection.max", Gauge, "{connection}",
        ["db.client.connection.pool.name"],
        "Maximum number of connections to PostgreSQL.";
    POOL_PENDING = "db.client.connection.pending_requests", Gauge, "{request}",
        ["db.client.connection.pool.name"],
        "Queries that wait for a connection.";
    POOL_WAIT = "db.client.connection.wait_time", Histogram(SECONDS), "s",
        ["db.client.connection.pool.name"],
        "Time that queries waited for a connection.";
    CIRCUIT_OPEN = "paystream.circuit.open", Gauge, "{circuit}",
        ["paystream.dependency"],
        "1 while the circuit of redis or postgresql is open.";
    // Values of the whole system that every process exports; take the maximum.
    QUEUE_DEPTH = "paystream.queue.depth", Gauge, "{message}",
        ["messaging.destination.name", "messaging.consumer.group.name"],
        "Payments accepted and not settled: lag and pending.";
    QUEUE_LAG = "paystream.queue.lag", Gauge, "{message}",
        ["messaging.destination.name", "messaging.consumer.group.name"],
        "Entries that no worker has taken yet.";
    QUEUE_PENDING = "paystream.queue.pending", Gauge, "{message}",
        ["messaging.destination.name", "messaging.consumer.group.name"],
        "Entries taken and not acknowledged.";
    QUEUE_LENGTH = "paystream.queue.length", Gauge, "{message}",
        ["messaging.destination.name"],
        "Entries in the streams, settled ones included until they are trimmed.";
    QUEUE_OLDEST = "paystream.queue.oldest.age", Gauge, "s",
        ["messaging.destination.name", "messaging.consumer.group.name"],
        "Age of the oldest entry that is not settled.";
    QUEUE_CONSUMERS = "paystream.queue.consumers", Gauge, "{worker}",
        ["messaging.destination.name", "messaging.consumer.group.name"],
        "Workers with a current lease.";
    DEAD_LETTERS = "paystream.queue.dead_letters", Gauge, "{message}",
        ["messaging.destination.name"],
        "Dead letters that wait for a decision.";
    PARTITION_DEPTH = "paystream.partition.depth", Gauge, "{message}",
        ["paystream.partition"],
        "Payments of a partition accepted and not settled.";
    PARTITION_LAG = "paystream.partition.lag", Gauge, "{message}",
        ["paystream.partition"],
        "Entries of a partition that no worker has taken yet.";
    PARTITION_PENDING = "paystream.partition.pending", Gauge, "{message}",
        ["paystream.partition"],
        "Entries of a partition taken and not acknowledged.";
    BACKLOG_LIMIT = "paystream.partition.backlog.limit", Gauge, "{message}",
        [],
        "Payments that may wait in one partition; more are refused. By gateways.";
    PARTITION_OLDEST = "paystream.partition.oldest.age", Gauge, "s",
        ["paystream.partition"],
        "Age of the oldest entry of a partition that is not settled.";
    PARTITION_EPOCH = "paystream.partition.epoch", Gauge, "{epoch}",
        ["paystream.partition"],
        "Ownership epoch of a partition; rises by one with each change of owner.";
    OWNERLESS = "paystream.partitions.ownerless", Gauge, "{partition}",
        [],
        "Partitions without a living owner.";
    PARTITIONS = "paystream.partitions", Gauge, "{partition}",
        [],
        "Partitions of the topology.";
    SUSPENSE = "paystream.suspense.payments", Gauge, "{payment}",
        [],
        "Payments held for unknown customers.";
    CONFLICTS = "paystream.conflicts", Gauge, "{payment}",
        [],
        "Open conflicts: payments under a used reference with other content.";
    CONFLICTS_OLDEST = "paystream.conflicts.oldest.age", Gauge, "s",
        [],
        "Time since the first open conflict was found; 0 without one.";
    PARKED = "paystream.customers.parked", Gauge, "{customer}",
        [],
        "Customers whose payments wait behind a dead letter.";
    PARKED_OLDEST = "paystream.parked.oldest.age", Gauge, "s",
        [],
        "Time since the first parked customer was parked; 0 without one.";
    LOSSES = "paystream.losses", Gauge, "{loss}",
        [],
        "Open losses: sequences that Redis or PostgreSQL has lost.";
    TRIM_AGE = "paystream.trim.floor.age", Gauge, "s",
        [],
        "Age of the oldest entry in the streams.";
    REDIS_USED = "paystream.redis.memory.used", Gauge, "By",
        [],
        "Memory used by Redis.";
    REDIS_LIMIT = "paystream.redis.memory.limit", Gauge, "By",
        [],
        "Memory limit of Redis; 0 is no limit.";
    REDIS_AOF_FAILED = "paystream.redis.aof.failed", Gauge, "{failure}",
        [],
        "1 while Redis's last write to its append-only file failed.";
    CUSTOMERS = "paystream.customers", Gauge, "{customer}",
        [],
        "Customers with an account.";
    CUSTOMERS_COMPLETED = "paystream.customers.completed", Gauge, "{customer}",
        [],
        "Customers who have paid everything.";
    AUDIT_DRIFT = "paystream.audit.drift", Gauge, "{account}",
        [],
        "Accounts that differ from their statement, by the running audit. Must be 0.";
    AUDIT_AGE = "paystream.audit.age", Gauge, "s",
        [],
        "Seconds since the last full pass of the running audit.";
    // The process.
    UPTIME = "process.uptime", Gauge, "s",
        ["paystream.role"],
        "Time since the process started, by its role: all, gateway, operations or worker.";
    CPU = "process.cpu.utilization", Gauge, "1",
        [],
        "CPU use of this process, as a share of the processors that its threads can use.";
    MEMORY = "process.memory.usage", Gauge, "By",
        [],
        "Memory used by this process.";
    MEMORY_LIMIT = "paystream.process.memory.limit", Gauge, "By",
        [],
        "Memory limit of this process: its control group's, or the machine's.";
    TASKS = "paystream.runtime.alive_tasks", Gauge, "{task}",
        [],
        "Tasks of the runtime.";
    FILES = "process.open_file_descriptor.count", Gauge, "{file_descriptor}",
        [],
        "Open file descriptors.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_what_the_collector_makes_of_them() {
        let names = [&HTTP_DURATION, &RECEIVED, &CPU, &REDIS_USED, &HELD, &HTTP_ACTIVE];
        assert_eq!(
            names.map(Metric::prometheus_name),
            [
                "http_server_request_duration_seconds",
                "paystream_payments_received_total",
                "process_cpu_utilization_ratio",
                "paystream_redis_memory_used_bytes",
                "paystream_partition_held",
                "http_server_active_requests",
            ]
        );
    }
}
