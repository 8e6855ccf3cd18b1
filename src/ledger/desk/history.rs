//! What the ledger remembers of one payment and of one partition: rows, owners,
//! attempts. Never changes anything.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::Desk;
use crate::{
    domain::{Reference, StreamId},
    ledger::Error,
};

/// A partition's acquisition.
#[derive(Clone, Debug, FromRow)]
pub struct MoveRow {
    /// Which.
    pub partition: i32,
    /// Under which epoch.
    pub epoch: i64,
    /// By whom.
    pub owner: String,
    /// From whom, if that owner had not released it.
    pub previous: Option<String>,
    /// When.
    pub acquired_at: DateTime<Utc>,
}

/// An attempt beside the ordinary.
#[derive(Clone, Debug, FromRow)]
pub struct AttemptRow {
    /// Which one.
    pub attempt: i32,
    /// What it ended with; nothing where it began.
    pub error: Option<String>,
    /// By whom,
    pub worker: String,
    /// under which epoch
    pub epoch: i64,
    /// and when.
    pub at: DateTime<Utc>,
}

/// What is being tried on a partition now.
#[derive(Clone, Debug)]
pub struct TrialRow {
    /// Where.
    pub partition: u16,
    /// From this entry
    pub first: StreamId,
    /// to this one.
    pub last: StreamId,
    /// Attempts so far, the one under way included.
    pub attempts: u32,
    /// What the last one ended with; nothing while one is under way.
    pub error: Option<String>,
}

/// A row of the ledger, whatever table it is in.
#[derive(Clone, Debug, FromRow)]
pub struct StoredPayment {
    /// Where it is: `applied`, `recorded`, `rejected`, `suspense`,
    /// `refund_marked`, `parked`, `dead_lettered`, `redriven`, `discarded`,
    /// `conflict`, `duplicate`.
    pub state: String,
    /// What the bank said of it.
    pub payment_status: Option<String>,
    /// Whose it is.
    pub customer_id: Option<String>,
    /// How much.
    pub amount: Option<rust_decimal::Decimal>,
    /// Why it was rejected or could not be settled.
    pub reason: Option<String>,
    /// Paid of what was outstanding.
    pub applied_amount: Option<rust_decimal::Decimal>,
    /// Paid beyond it.
    pub excess_amount: Option<rust_decimal::Decimal>,
    /// What was left to pay afterwards.
    pub balance_after: Option<rust_decimal::Decimal>,
    /// Its place in the statement.
    pub account_version: Option<i64>,
    /// Where it came from.
    pub partition: i32,
    /// Its sequence there.
    pub sequence: Option<i64>,
    /// Its entry id.
    pub stream_id: String,
    /// Under which epoch it was written.
    pub epoch: i64,
    /// When the bank says it happened.
    pub transaction_date: Option<DateTime<Utc>>,
    /// When the gateway took it.
    pub received_at: Option<DateTime<Utc>>,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// The trace that brought it.
    pub trace_id: Option<Vec<u8>>,
}

impl Desk {
    /// Every row that the ledger has of a reference, the oldest first.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn stored(&self, reference: &Reference) -> Result<Vec<StoredPayment>, Error> {
        let _ = reference;
        todo!()
    }

    /// Attempts at one entry beside the ordinary, the oldest first; at most 500.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn attempts(&self, partition: i32, id: StreamId) -> Result<Vec<AttemptRow>, Error> {
        let _ = (partition, id);
        todo!()
    }

    /// What is being tried now, on all partitions.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn trials(&self) -> Result<Vec<TrialRow>, Error> {
        todo!()
    }

    /// Acquisitions of a partition, or of all, the latest first.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn moves(&self, partition: Option<i32>, limit: i64) -> Result<Vec<MoveRow>, Error> {
        let _ = (partition, limit);
        todo!()
    }

    /// Who owned a partition under an epoch.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn owner_under(&self, partition: i32, epoch: i64) -> Result<Option<MoveRow>, Error> {
        let _ = (partition, epoch);
        todo!()
    }

    /// Which of these entries the ledger has settled, whatever came of them.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn settled_among(
        &self,
        entries: &[(u16, i64)],
    ) -> Result<std::collections::HashMap<(u16, i64), String>, Error> {
        let _ = entries;
        todo!()
    }
}
