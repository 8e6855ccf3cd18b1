//! Money of unknown customers as operators see it, and what they do with it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Action, Control, Error};

/// A payment in suspense.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SuspensePayment {
    /// The bank's name for it.
    pub transaction_reference: String,
    /// The customer it was sent for.
    pub customer_id: String,
    /// How much.
    pub transaction_amount: String,
    /// `held`, `applied`, `conflict` or `refund_marked`.
    pub state: String,
    /// Why it is there, as a sentence.
    pub sentence: String,
    /// The customer that it was assigned to.
    pub assigned_to: Option<String>,
    /// When the bank says it happened.
    pub transaction_date: DateTime<Utc>,
    /// Since when it is held.
    pub held_at: DateTime<Utc>,
    /// When it was dealt with.
    pub resolved_at: Option<DateTime<Utc>>,
    /// What is safe to do; empty once it is dealt with.
    pub actions: Vec<Action>,
}

impl Control {
    /// A page of payments in suspense, the longest held first.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn suspense(
        &self,
        all: bool,
        customer: Option<&str>,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<SuspensePayment>, Error> {
        let _ = self.desk.suspense(all, customer, after, limit).await?;
        todo!()
    }

    /// Applies a held payment to the account of `customer`, whose it is.
    ///
    /// # Errors
    /// When the ledger cannot be asked; nothing has changed then.
    pub async fn assign(
        &self,
        reference: &crate::domain::Reference,
        customer: &crate::domain::CustomerId,
        signature: &super::Signature,
    ) -> Result<super::Acted<crate::ledger::Assigned>, Error> {
        Ok(self.desk.assign(reference, customer, signature).await?)
    }

    /// Notes that a held payment is to be sent back.
    ///
    /// # Errors
    /// When the ledger cannot be asked; nothing has changed then.
    pub async fn mark_for_refund(
        &self,
        reference: &crate::domain::Reference,
        signature: &super::Signature,
    ) -> Result<super::Acted<()>, Error> {
        Ok(self.desk.mark_for_refund(reference, signature).await?)
    }
}
