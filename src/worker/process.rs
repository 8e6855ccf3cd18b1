//! The configuration and connections of a worker. Never does anything by itself.

use std::sync::Arc;

use crate::{
    circuit_breaker::CircuitBreaker, config::WorkerConfig, ledger::Ledger, progress::Board,
    stream::Streams, telemetry::Signals,
};

pub struct Worker {
    /// A unique name, the same after a restart.
    pub id: String,
    /// Distinguishes this process from an earlier one of the same name.
    pub incarnation: String,
    pub config: WorkerConfig,
    /// The generation of the topology.
    pub generation: i32,
    pub streams: Streams,
    pub ledger: Ledger,
    pub redis: Arc<CircuitBreaker>,
    pub postgresql: Arc<CircuitBreaker>,
    pub board: Arc<Board>,
    pub signals: Signals,
}
