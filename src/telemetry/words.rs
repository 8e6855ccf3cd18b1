//! Names of attributes and their values: the semantic conventions', and our own. Never
//! measures anything.

use opentelemetry::KeyValue;

use crate::domain::PaymentState;

pub(super) const METHOD: &str = "http.request.method";
pub(super) const ROUTE: &str = "http.route";
pub(super) const STATUS: &str = "http.response.status_code";
pub(super) const SCHEME: &str = "url.scheme";
pub(super) const PATH: &str = "url.path";
/// Stands for a path that no route has.
pub(super) const REDACTED: &str = "REDACTED";
pub(super) const SERVER: &str = "server.address";
pub(super) const PORT: &str = "server.port";
pub(super) const ERROR: &str = "error.type";
pub(super) const OPERATION_TYPE: &str = "messaging.operation.type";
pub(super) const PARTITION_ID: &str = "messaging.destination.partition.id";
pub(super) const MESSAGE_ID: &str = "messaging.message.id";
pub(super) const BATCH_COUNT: &str = "messaging.batch.message_count";
pub(super) const GROUP: &str = "messaging.consumer.group.name";
pub(super) const DB_SYSTEM: &str = "db.system.name";
pub(super) const DB_NAME: &str = "db.namespace";
pub(super) const DB_OPERATION: &str = "db.operation.name";
pub(super) const DB_TABLE: &str = "db.collection.name";
pub(super) const DB_BATCH: &str = "db.operation.batch.size";
pub(super) const OUTCOME: &str = "paystream.outcome";
pub(super) const REFERENCE: &str = "paystream.reference";
pub(super) const ATTEMPT: &str = "paystream.attempt";
pub const ROLE: &str = "paystream.role";
pub const WORKER: &str = "paystream.worker";
pub(super) const REASON: &str = "paystream.retry.reason";
pub(super) const MOVE: &str = "paystream.move";
pub(super) const DESTINATION_NAME: &str = "messaging.destination.name";
pub const PARTITION: &str = "paystream.partition";
pub const DEPENDENCY: &str = "paystream.dependency";
pub const POOL: &str = "db.client.connection.pool.name";
pub const POOL_STATE: &str = "db.client.connection.state";

/// Outcomes of a payment at the gateway.
pub(super) const RECEIVED: &[&str] =
    &["accepted", "duplicate", "conflict", "invalid", "overloaded", "error"];
/// Outcomes of a payment at a worker.
pub(super) fn processed() -> Vec<&'static str> {
    let states = PaymentState::ALL.into_iter().filter(|state| state.is_a_workers());
    states.map(PaymentState::as_str).collect()
}
/// Reasons of retries.
pub(super) const REASONS: &[&str] = &[
    "redis_outage",
    "postgresql_outage",
    "locked",
    "deadline",
    "raced",
    "entry",
    "state_lost",
    "unexpected",
];
/// Moves of partitions.
pub(super) const MOVES: &[&str] = &["acquired", "released", "lost"];

/// The streams as one messaging destination.
pub(super) const DESTINATION: &str = "payments";
/// The consumer group of the workers.
pub(super) const LEDGER: &str = "ledger";
pub(super) const SEND: &str = "send";
pub(super) const RECEIVE: &str = "receive";
pub(super) const PROCESS: &str = "process";
pub(super) const ACK: &str = "ack";
pub(super) const BURY: &str = "bury";

/// Attributes of an operation on the streams.
pub(super) fn messaging(operation: &'static str) -> [KeyValue; 3] {
    [
        KeyValue::new("messaging.system", "redis"),
        KeyValue::new(DESTINATION_NAME, DESTINATION),
        KeyValue::new("messaging.operation.name", operation),
    ]
}

/// Attributes of an operation on the ledger.
pub(super) fn ledger(operation: &'static str) -> [KeyValue; 2] {
    [KeyValue::new(DB_SYSTEM, "postgresql"), KeyValue::new(DB_OPERATION, operation)]
}
