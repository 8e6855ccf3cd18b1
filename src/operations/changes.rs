//! What operators look at and change that needs nothing but the ledger: owners,
//! parked customers, and the log of all changes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Act, Acted, Error, Foretold, Operations, Signature,
    shapes::{Money, money},
};
use crate::{
    domain::CustomerId,
    ledger::{AuditRow, LossRow},
};

/// A change that somebody made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Rises with every change.
    pub id: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    /// What: `dead_letter_redriven`, for instance.
    pub action: String,
    /// To what: a reference, a customer, `partition 7`.
    pub subject: String,
    pub reason: Option<String>,
    /// What it was before,
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// and after.
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

/// A customer whose payments wait behind a dead letter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ParkedCustomer {
    pub customer_id: String,
    /// Since when.
    pub parked_at: DateTime<Utc>,
    /// Payments that wait.
    pub payments: i64,
    /// What they come to, all statuses together.
    #[schema(value_type = Money)]
    pub amount: String,
    /// Dead letters of theirs that nobody has dealt with; while there is one, a
    /// release must be forced.
    pub dead_letters: Vec<i64>,
}

impl ParkedCustomer {
    /// The act that settles what waits.
    #[must_use]
    pub fn release(&self) -> Option<Act> {
        let customer = CustomerId::parse(&*self.customer_id).ok()?;
        Some(Act::Unpark { customer, force: false })
    }

    /// What releasing them would do.
    pub(super) fn release_would(&self) -> Foretold {
        let Self { customer_id, payments, amount, dead_letters, .. } = self;
        let would = format!("{payments} payments of {customer_id}, {amount} together, are settled");
        let ids: Vec<String> = dead_letters.iter().map(i64::to_string).collect();
        let must_force = !ids.is_empty();
        let sentence = match must_force {
            false => format!("{would} now, in their order"),
            true => format!(
                "{would} before dead letter {}, which they wait for and which nobody has dealt with",
                ids.join(", ")
            ),
        };
        Foretold { would: !must_force, must_force, sentence }
    }
}

impl Operations {
    /// Changes, the latest first, older than `before`.
    pub async fn audit_log(
        &self,
        subject: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, Error> {
        let rows = self.admin.audit_log(subject, before, limit).await?;
        Ok(rows.into_iter().map(AuditEntry::from).collect())
    }

    /// Notes that somebody changed how much a gateway logs.
    pub async fn note_log_level(
        &self,
        before: &str,
        after: &str,
        by: &Signature,
    ) -> Result<(), Error> {
        Ok(self.admin.note_log_level(before, after, by).await?)
    }

    /// Customers whose payments wait behind a dead letter, the longest first.
    pub async fn parked(&self) -> Result<Vec<ParkedCustomer>, Error> {
        self.parked_of(None).await
    }

    /// The same of this customer, if it is parked.
    pub async fn parked_one(&self, customer: &CustomerId) -> Result<Option<ParkedCustomer>, Error> {
        Ok(self.parked_of(Some(customer)).await?.pop())
    }

    async fn parked_of(&self, customer: Option<&CustomerId>) -> Result<Vec<ParkedCustomer>, Error> {
        let of_row = |row: crate::ledger::ParkedCustomer| ParkedCustomer {
            customer_id: row.customer_id,
            parked_at: row.parked_at,
            payments: row.payments,
            amount: money(row.amount),
            dead_letters: row.dead_letters,
        };
        Ok(self.parking.list(customer).await?.into_iter().map(of_row).collect())
    }

    /// Losses, the latest first; only those that nobody has dealt with, unless `all`.
    pub async fn losses(&self, all: bool) -> Result<Vec<LossRow>, Error> {
        Ok(self.ledger.losses().list(!all).await?)
    }

    /// Notes that open losses were dealt with; says how many there were.
    pub(super) async fn accept_losses(
        &self,
        partition: Option<u16>,
        by: &Signature,
    ) -> Result<u64, Error> {
        Ok(self.ledger.losses().accept(partition, &by.actor, &by.reason).await?)
    }

    /// Settles what waits for a customer and parks no more. Says how many
    /// payments waited. Refused behind an open dead letter, unless forced.
    pub async fn release_parked(
        &self,
        customer: &CustomerId,
        force: bool,
        signature: &Signature,
    ) -> Result<Acted<u64>, Error> {
        let released = self.parking.release(customer, force, signature).await?;
        if released.is_ok() {
            self.forget_balance(customer).await;
        }
        Ok(released)
    }
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        let AuditRow { id, at, actor, action, subject, reason, before, after } = row;
        Self { id, at, actor, action, subject, reason, before, after }
    }
}
