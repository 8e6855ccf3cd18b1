//! What operators see of the ledger beside its payments, and what they change
//! in it: dead letters, suspense, conflicts, owners, and the log of all such
//! changes. Each change is one transaction that also notes who made it and why.
//!
//! A change that comes too late, or twice, is refused with a sentence and
//! changes nothing. Never reaches Redis.

mod audit_log;
mod conflicts;
mod dead_letters;
mod history;
mod locks;
mod suspense;
mod vitals;
mod workers;

use rust_decimal::Decimal;
use sqlx::PgPool;

pub(super) use audit_log::{Change, note};
pub use history::{AttemptRow, MoveRow, StoredPayment};
pub use locks::LockHolder;
pub use vitals::{Symptom, Symptoms, Vitals};
pub use workers::WorkerRow;

use super::Topology;

/// Counting what is open ends here.
pub const COUNT_MAX: i64 = 10_000;
/// The part of the ledger that operators work with.
#[derive(Clone)]
pub struct AdminStore {
    pool: PgPool,
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
    /// What it is about does not exist.
    Missing(String),
    /// It was done before, or something else was.
    Settled(String),
    /// It cannot be done as things are.
    Impossible(String),
}

impl Refusal {
    #[must_use]
    pub fn sentence(&self) -> &str {
        match self {
            Self::Missing(text) | Self::Settled(text) | Self::Impossible(text) => text,
        }
    }
}

pub type Acted<T> = Result<T, Refusal>;

/// What came of settling a dead letter or a held payment.
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
    pub(super) fn new(pool: PgPool, topology: Topology) -> Self {
        Self { pool, topology }
    }
}
