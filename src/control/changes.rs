//! What operators look at and change that needs nothing but the ledger: owners,
//! parked customers, and the log of all changes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Acted, Control, Error, Refusal, Signature, shapes::money};
use crate::{domain::CustomerId, ledger::AuditRow};

/// A change that somebody made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Rises with every change.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// What: `dead_letter_redriven`, for instance.
    pub action: String,
    /// To what: a reference, a customer, `partition 7`.
    pub subject: String,
    /// Why.
    pub reason: Option<String>,
    /// What it was before,
    #[schema(value_type = Object)]
    pub before: Option<Value>,
    /// and after.
    #[schema(value_type = Object)]
    pub after: Option<Value>,
}

/// A customer whose payments wait behind a dead letter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ParkedCustomer {
    /// Whose.
    pub customer_id: String,
    /// Since when.
    pub parked_at: DateTime<Utc>,
    /// Payments that wait.
    pub payments: i64,
    /// What they come to, all statuses together.
    pub amount: String,
}

impl Control {
    /// Changes, the latest first, older than `before`.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn audit_log(
        &self,
        subject: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, Error> {
        let rows = self.desk.audit_log(subject, before, limit).await?;
        Ok(rows.into_iter().map(AuditEntry::from).collect())
    }

    /// Customers whose payments wait behind a dead letter, the longest first.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn parked(&self) -> Result<Vec<ParkedCustomer>, Error> {
        let customer = |row: crate::ledger::ParkedCustomer| ParkedCustomer {
            customer_id: row.customer_id,
            parked_at: row.parked_at,
            payments: row.payments,
            amount: money(row.amount),
        };
        Ok(self.parking.list().await?.into_iter().map(customer).collect())
    }

    /// Settles what waits for a customer and parks no more. Says how many
    /// payments waited.
    ///
    /// # Errors
    /// When the ledger cannot be asked; nothing has changed then.
    pub async fn release_parked(
        &self,
        customer: &CustomerId,
        signature: &Signature,
    ) -> Result<Acted<u64>, Error> {
        let Signature { actor, reason } = signature;
        let released = self.parking.release(customer, actor, reason).await?;
        if released.is_some() {
            self.forget_balance(customer).await;
        }
        let missing = || Refusal::Missing(format!("{} is not parked", customer.as_str()));
        Ok(released.ok_or_else(missing))
    }
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        let AuditRow { id, at, actor, action, subject, reason, before, after } = row;
        Self { id, at, actor, action, subject, reason, before, after }
    }
}
