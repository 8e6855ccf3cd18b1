//! Payments that came under a used reference with other content: found, and
//! noted as dealt with. Never gives one an effect.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::FromRow;

use super::{Acted, Desk, Signature};
use crate::ledger::Error;

/// A conflict beside the payment that has the reference.
#[derive(Clone, Debug, FromRow)]
pub struct OpenConflict {
    /// Where it came from,
    pub partition: i32,
    /// and its sequence there: together they name it.
    pub sequence: i64,
    /// The reference.
    pub transaction_reference: String,
    /// What it said,
    pub payment_status: String,
    /// of whom,
    pub customer_id: String,
    /// how much,
    pub amount: Decimal,
    /// and when.
    pub transaction_date: DateTime<Utc>,
    /// `open` or `resolved`.
    pub state: String,
    /// When it was found.
    pub detected_at: DateTime<Utc>,
    /// When somebody dealt with it.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Whose the payment is that has the reference,
    pub first_customer_id: Option<String>,
    /// how much,
    pub first_amount: Option<Decimal>,
    /// and when.
    pub first_transaction_date: Option<DateTime<Utc>>,
}

impl Desk {
    /// Conflicts, the longest open first, after this place; open ones only,
    /// unless `all`. At most [`super::PAGE_MAX`].
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn conflicts(
        &self,
        all: bool,
        reference: Option<&str>,
        after: Option<(i32, i64)>,
        limit: i64,
    ) -> Result<Vec<OpenConflict>, Error> {
        let _ = (all, reference, after, limit);
        todo!()
    }

    /// Notes that a conflict was dealt with.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; nothing has changed then.
    pub async fn resolve_conflict(
        &self,
        partition: u16,
        sequence: i64,
        signature: &Signature,
    ) -> Result<Acted<()>, Error> {
        let _ = (partition, sequence, signature);
        todo!()
    }
}
