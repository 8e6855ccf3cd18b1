//! One payment's whole life, as a timeline: received, appended, taken, tried,
//! settled, and what was changed by hand. Never changes anything.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Control, Error, PendingEntry};
use crate::domain::Reference;

/// A payment's life.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Life {
    /// The bank's name for it.
    pub transaction_reference: String,
    /// Where it is now: `accepted`, or as the ledger has it.
    pub state: String,
    /// What that means, as a sentence.
    pub sentence: String,
    /// Whose it is.
    pub customer_id: Option<String>,
    /// How much.
    pub transaction_amount: Option<String>,
    /// What the bank said: COMPLETE, PENDING or FAILED.
    pub payment_status: Option<String>,
    /// Where it was appended.
    pub partition: Option<u16>,
    /// Its sequence there.
    pub sequence: Option<i64>,
    /// Its entry id.
    pub stream_id: Option<String>,
    /// The trace that brought it, in hexadecimal.
    pub trace_id: Option<String>,
    /// The pending entry, while there is one.
    pub pending: Option<PendingEntry>,
    /// What happened, the oldest first.
    pub moments: Vec<Moment>,
    /// Whether the ledger could be asked.
    pub ledger_available: bool,
}

/// Something that happened to a payment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Moment {
    /// When; nothing where it is not known.
    pub at: Option<DateTime<Utc>>,
    /// Stable, for programs: `received`, `appended`, `taken`, `attempt`,
    /// `attempt_failed`, `applied`, and so on.
    pub code: String,
    /// What happened.
    pub sentence: String,
    /// Whether it is a failure.
    pub failed: bool,
}

impl Control {
    /// The life of the payment of this reference; nothing when nobody knows it.
    ///
    /// # Errors
    /// When neither store can be asked.
    pub async fn life(&self, reference: &Reference) -> Result<Option<Life>, Error> {
        let _ = reference;
        todo!()
    }
}
