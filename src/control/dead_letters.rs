//! Dead letters as operators see them, and what they do with them, one or many.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Acted, Action, Control, Error, Signature};
use crate::ledger::DeadLetterFilter;

/// A dead letter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Names it.
    pub id: i64,
    /// Where it was.
    pub partition: u16,
    /// Its entry id.
    pub stream_id: String,
    /// Its sequence, if it could be read so far.
    pub sequence: Option<i64>,
    /// Its reference, if it could be read so far.
    pub transaction_reference: Option<String>,
    /// Its customer, if it could be read so far.
    pub customer_id: Option<String>,
    /// Its amount, if it could be read so far.
    pub transaction_amount: Option<String>,
    /// Stable class of the reason: `entry_unreadable`, `settle_failed`,
    /// `worker_died`.
    pub code: String,
    /// Why.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// `dead`, `redriven` or `discarded`.
    pub state: String,
    /// When it was buried.
    pub dead_at: DateTime<Utc>,
    /// When it was redriven or discarded.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The entry's fields as they were.
    #[schema(value_type = Object)]
    pub entry: serde_json::Value,
    /// What is safe to do; empty once it is dealt with.
    pub actions: Vec<Action>,
}

/// What came of redriving one dead letter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RedriveReport {
    /// Which.
    pub id: i64,
    /// Its reference.
    pub transaction_reference: Option<String>,
    /// Whether it is settled now, or would be.
    pub redriven: bool,
    /// `applied` and so on; nothing when it was refused.
    pub outcome: Option<String>,
    /// What came of it, or why not.
    pub sentence: String,
}

impl Control {
    /// A page of dead letters, the latest first.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DeadLetter>, Error> {
        let _ = (filter, before, limit);
        todo!()
    }

    /// One dead letter.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, Error> {
        let _ = id;
        todo!()
    }

    /// Settles one dead letter now, or says what would come of it.
    ///
    /// # Errors
    /// When the ledger cannot be asked; nothing has changed then.
    pub async fn redrive(
        &self,
        id: i64,
        signature: &Signature,
        dry_run: bool,
    ) -> Result<Acted<RedriveReport>, Error> {
        let _ = (id, signature, dry_run);
        todo!()
    }

    /// Notes that a dead letter is not to be settled.
    ///
    /// # Errors
    /// When the ledger cannot be asked; nothing has changed then.
    pub async fn discard(&self, id: i64, signature: &Signature) -> Result<Acted<()>, Error> {
        Ok(self.desk.discard(id, signature).await?)
    }

    /// Redrives many, the oldest first.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn redrive_all(
        &self,
        filter: &DeadLetterFilter,
        signature: &Signature,
        dry_run: bool,
        on_progress: impl FnMut(u64, u64),
    ) -> Result<Vec<RedriveReport>, Error> {
        let _ = (filter, signature, dry_run, on_progress);
        todo!()
    }

    /// Discards many, the oldest first.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn discard_all(
        &self,
        filter: &DeadLetterFilter,
        signature: &Signature,
        dry_run: bool,
        on_progress: impl FnMut(u64, u64),
    ) -> Result<Vec<RedriveReport>, Error> {
        let _ = (filter, signature, dry_run, on_progress);
        todo!()
    }
}
