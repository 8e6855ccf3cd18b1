//! Pending entries, page by page, joined with what the ledger knows of them, and
//! a summary of all of them by age. Never claims an entry.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Control, Error, Verdict};

/// Which pending entries.
#[derive(Clone, Debug, Default)]
pub struct PendingFilter {
    /// Of this partition,
    pub partition: Option<u16>,
    /// not touched for at least this long,
    pub min_idle: Option<Duration>,
    /// held by this consumer,
    pub consumer: Option<String>,
    /// of this reference.
    pub reference: Option<String>,
}

/// An entry that was taken and is not acknowledged.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PendingEntry {
    /// Where it is.
    pub partition: u16,
    /// Its entry id.
    pub stream_id: String,
    /// Its sequence; nothing when it cannot be read.
    pub sequence: Option<i64>,
    /// The bank's name for it.
    pub transaction_reference: Option<String>,
    /// Whose it is.
    pub customer_id: Option<String>,
    /// How much.
    #[schema(example = "10000.00")]
    pub transaction_amount: Option<String>,
    /// When the gateway took it.
    pub received_at: Option<DateTime<Utc>>,
    /// The worker it was handed to last.
    pub consumer: String,
    /// The worker that owns the partition now; nothing when nobody does, or
    /// while the ledger cannot be asked.
    pub owner: Option<String>,
    /// Whether that worker's lease runs; nothing while the ledger cannot be
    /// asked.
    pub owner_alive: Option<bool>,
    /// Milliseconds since it was handed out last.
    pub idle_ms: u64,
    /// How often it was handed out.
    pub deliveries: u64,
    /// Attempts beside the ordinary, so far.
    pub attempts: u32,
    /// Why it is pending, and what is safe to do.
    pub verdict: Verdict,
}

/// A page of pending entries.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PendingPage {
    /// Them, by partition and entry id.
    pub entries: Vec<PendingEntry>,
    /// Where the next page begins; nothing on the last one.
    pub next: Option<String>,
    /// Whether the ledger could be asked. Without it verdicts say so.
    pub ledger_available: bool,
    /// When it was looked.
    pub as_of: DateTime<Utc>,
}

/// All pending entries at a glance.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PendingSummary {
    /// Entries that were taken and are not acknowledged.
    pub pending: u64,
    /// Entries that no worker has taken yet; those of damaged streams are not
    /// counted.
    pub lag: u64,
    /// How many of the pending ones have been idle for how long.
    pub ages: Vec<AgeBucket>,
    /// How many each consumer holds.
    pub consumers: Vec<ConsumerShare>,
    /// Entries that were looked at for the ages; fewer than `pending` when there
    /// are very many.
    pub looked_at: u64,
    /// When it was looked.
    pub as_of: DateTime<Utc>,
}

/// Pending entries of one age.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AgeBucket {
    /// Idle for less than this many seconds; nothing for the last.
    pub below_seconds: Option<u64>,
    /// How many.
    pub entries: u64,
}

/// What one consumer holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConsumerShare {
    /// Which.
    pub consumer: String,
    /// How many entries.
    pub entries: u64,
}

impl Control {
    /// A page of pending entries, from where the last one's `next` says.
    ///
    /// # Errors
    /// When Redis cannot be reached. Without the ledger, verdicts say so.
    pub async fn pending(
        &self,
        filter: &PendingFilter,
        from: Option<&str>,
        limit: usize,
    ) -> Result<PendingPage, Error> {
        let _ = (filter, from, limit, self.looks().await?, &self.clock, &self.topology);
        todo!()
    }

    /// All pending entries at a glance.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn pending_summary(&self) -> Result<PendingSummary, Error> {
        todo!()
    }
}
