//! Dead letters: found, sent on their way again, discarded. Never removes one.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::Value;
use sqlx::FromRow;

use super::{Acted, Desk, Signature};
use crate::{domain::Delivery, ledger::Error};

/// Which dead letters.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    /// `dead`, `redriven` or `discarded`; all of them without.
    pub state: Option<String>,
    /// Of this reference,
    pub reference: Option<String>,
    /// of this class of reason,
    pub code: Option<String>,
    /// of this customer,
    pub customer: Option<String>,
    /// dead since then,
    pub since: Option<DateTime<Utc>>,
    /// and before then.
    pub until: Option<DateTime<Utc>>,
}

/// An entry that could not be settled.
#[derive(Clone, Debug, FromRow)]
pub struct DeadLetterRow {
    /// Names it.
    pub id: i64,
    /// Where it was.
    pub partition: i32,
    /// Its entry id.
    pub stream_id: String,
    /// Its sequence, if it could be read so far.
    pub sequence: Option<i64>,
    /// Its reference, as far as it could be read,
    pub transaction_reference: Option<String>,
    /// its customer
    pub customer_id: Option<String>,
    /// and its amount.
    pub amount: Option<Decimal>,
    /// Stable class of the reason: `entry_unreadable`, `settle_failed`,
    /// `worker_died`.
    pub code: String,
    /// Why, as a sentence.
    pub reason: String,
    /// The entry's fields as they were.
    pub entry: Value,
    /// How often it was tried.
    pub attempts: i32,
    /// Under which epoch it was buried.
    pub epoch: i64,
    /// `dead`, `redriven` or `discarded`.
    pub state: String,
    /// When it was buried.
    pub dead_at: DateTime<Utc>,
    /// When it was redriven or discarded.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// What came of redriving a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// `applied`, `recorded`, `rejected`, `suspense`, `conflict` or `duplicate`.
    pub outcome: String,
    /// What is left to pay afterwards, where it reached an account.
    pub balance_after: Option<Decimal>,
    /// Whether later payments of its customer wait in the parking still.
    pub parked: bool,
}

impl Desk {
    /// Dead letters, the latest first, with an id below `before`; at most
    /// [`super::PAGE_MAX`].
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DeadLetterRow>, Error> {
        let _ = (filter, before, limit, &self.pool, &self.topology);
        todo!()
    }

    /// How many there are.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn dead_letter_count(&self, filter: &DeadLetterFilter) -> Result<i64, Error> {
        let _ = filter;
        todo!()
    }

    /// One of them.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetterRow>, Error> {
        let _ = id;
        todo!()
    }

    /// Settles a dead letter now, read as `delivery`, in one transaction that
    /// also marks it. What cannot be settled stays dead. With `dry_run`, says
    /// what would come of it and changes nothing.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; nothing has changed then.
    pub async fn redrive(
        &self,
        id: i64,
        delivery: &Delivery,
        signature: &Signature,
        dry_run: bool,
    ) -> Result<Acted<Redriven>, Error> {
        let _ = (id, delivery, signature, dry_run);
        todo!()
    }

    /// Notes that a dead letter is not to be settled.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; nothing has changed then.
    pub async fn discard(&self, id: i64, signature: &Signature) -> Result<Acted<()>, Error> {
        let _ = (id, signature);
        todo!()
    }
}
