//! Operators' access to the ledger: dead letters, suspense, conflicts, owners, and the audit log.
//! Each change is one transaction that also notes who made it and why.
//!
//! A change that comes too late, or twice, is refused with a sentence. Never reaches Redis.

mod audit_log;
mod conflicts;
mod dead_letters;
mod history;
mod locks;
mod suspense;
mod vitals;
mod workers;

use rust_decimal::Decimal;

pub(super) use audit_log::{Change, note};
pub use history::{AttemptRow, EvidenceRow, MoveRow, StoredPayment};
pub use locks::LockHolder;
pub use vitals::{OpenCases, Symptom, Symptoms, Vitals};
pub use workers::WorkerRow;

use super::Topology;
use crate::ledger::pool::Pool;

/// Open cases are counted up to this number.
pub const COUNT_MAX: i64 = 10_000;
/// The part of the ledger that operators work with.
#[derive(Clone)]
pub struct AdminStore {
    pool: Pool,
    topology: Topology,
}

/// Who changes something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub actor: String,
    pub reason: String,
}

/// Why a change was not made. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The target does not exist.
    Missing(String),
    /// The case is already closed, by this act or another.
    Settled(String),
    /// The act is impossible in the current state.
    Impossible(String),
}

impl Refusal {
    pub fn sentence(&self) -> &str {
        match self {
            Self::Missing(text) | Self::Settled(text) | Self::Impossible(text) => text,
        }
    }
}

pub type Acted<T> = Result<T, Refusal>;

/// The result of settling a dead letter or a held payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledCase {
    /// `applied`, `recorded`, `rejected`, `suspense`, `conflict`, `duplicate`, or
    /// `redelivered` when this very entry was in the ledger already.
    pub outcome: String,
    /// Outstanding balance afterwards, where an account was reached.
    pub balance_after: Option<Decimal>,
    /// Whether later payments of the customer are still parked.
    pub parked: bool,
    /// Whether this very payment came again meanwhile and is parked.
    pub waits: bool,
}

impl AdminStore {
    pub(super) fn new(pool: Pool, topology: Topology) -> Self {
        Self { pool, topology }
    }
}
