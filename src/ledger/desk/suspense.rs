//! Money that arrived for a customer we do not know: found, given to the right
//! customer, or marked for refund. Never moves money out of the ledger.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::FromRow;

use super::{Acted, Desk, Signature};
use crate::{
    domain::{CustomerId, Reference},
    ledger::Error,
};

/// A payment in suspense.
#[derive(Clone, Debug, FromRow)]
pub struct SuspenseRow {
    /// The bank's name for it.
    pub transaction_reference: String,
    /// The customer it was sent for.
    pub customer_id: String,
    /// How much.
    pub amount: Decimal,
    /// Where it came from.
    pub partition: i32,
    /// Its sequence there.
    pub sequence: i64,
    /// `held`, `applied`, `conflict` or `refund_marked`.
    pub state: String,
    /// The customer that it was assigned to.
    pub assigned_to: Option<String>,
    /// When the bank says it happened.
    pub transaction_date: DateTime<Utc>,
    /// When the gateway took it.
    pub received_at: DateTime<Utc>,
    /// Since when it is held.
    pub held_at: DateTime<Utc>,
    /// When it was dealt with.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// What came of assigning a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// `applied` or `rejected`.
    pub outcome: String,
    /// What is left to pay afterwards.
    pub balance_after: Option<Decimal>,
}

impl Desk {
    /// Payments in suspense, the longest held first, after the one of reference
    /// `after`; those that are held only, unless `all`. At most
    /// [`super::PAGE_MAX`].
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn suspense(
        &self,
        all: bool,
        customer: Option<&str>,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<SuspenseRow>, Error> {
        let _ = (all, customer, after, limit);
        todo!()
    }

    /// Applies a held payment to the account of `customer`, whose it is.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; nothing has changed then.
    pub async fn assign(
        &self,
        reference: &Reference,
        customer: &CustomerId,
        signature: &Signature,
    ) -> Result<Acted<Assigned>, Error> {
        let _ = (reference, customer, signature);
        todo!()
    }

    /// Notes that a held payment is to be sent back. It stays in suspense and is
    /// not applied any more, even when its customer's account is opened.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; nothing has changed then.
    pub async fn mark_for_refund(
        &self,
        reference: &Reference,
        signature: &Signature,
    ) -> Result<Acted<()>, Error> {
        let _ = (reference, signature);
        todo!()
    }
}
