//! Conflicts as operators see them: two payments under one reference, side by
//! side.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Action, Control, Error};

/// A payment that came under a used reference with other content.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Conflict {
    /// Where it came from,
    pub partition: u16,
    /// and its sequence there: together they name it.
    pub sequence: i64,
    /// The reference.
    pub transaction_reference: String,
    /// Whom it is of,
    pub customer_id: String,
    /// how much,
    pub transaction_amount: String,
    /// what the bank said,
    pub payment_status: String,
    /// and when.
    pub transaction_date: DateTime<Utc>,
    /// The payment that has the reference: of whom,
    pub first_customer_id: Option<String>,
    /// how much,
    pub first_amount: Option<String>,
    /// and when.
    pub first_transaction_date: Option<DateTime<Utc>>,
    /// What differs, as a sentence.
    pub sentence: String,
    /// `open` or `resolved`.
    pub state: String,
    /// When it was found.
    pub detected_at: DateTime<Utc>,
    /// When somebody dealt with it.
    pub resolved_at: Option<DateTime<Utc>>,
    /// What is safe to do; empty once it is dealt with.
    pub actions: Vec<Action>,
}

impl Control {
    /// A page of conflicts, the longest open first.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn conflicts(
        &self,
        all: bool,
        reference: Option<&str>,
        after: Option<(i32, i64)>,
        limit: i64,
    ) -> Result<Vec<Conflict>, Error> {
        let _ = self.desk.conflicts(all, reference, after, limit).await?;
        todo!()
    }

    /// Notes that a conflict was dealt with.
    ///
    /// # Errors
    /// When the ledger cannot be asked; nothing has changed then.
    pub async fn resolve_conflict(
        &self,
        partition: u16,
        sequence: i64,
        signature: &super::Signature,
    ) -> Result<super::Acted<()>, Error> {
        Ok(self.desk.resolve_conflict(partition, sequence, signature).await?)
    }
}
