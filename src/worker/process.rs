//! What a worker works with. Does nothing by itself.

use std::sync::Arc;

use crate::{
    circuit_breaker::CircuitBreaker, config::WorkerConfig, ledger::Ledger, progress::Board,
    stream::Streams, telemetry::Signals,
};

pub struct Worker {
    /// Its name: unique, and the same after a restart.
    pub id: String,
    /// Distinguishes this process from an earlier one of the same name.
    pub incarnation: String,
    pub config: WorkerConfig,
    /// Of which generation of the topology its partitions are.
    pub generation: i32,
    pub streams: Streams,
    pub ledger: Ledger,
    pub redis: Arc<CircuitBreaker>,
    pub postgresql: Arc<CircuitBreaker>,
    pub board: Arc<Board>,
    pub signals: Signals,
}
