//! One payment's whole life, as a timeline: received, appended, taken, tried,
//! settled, and what was changed by hand. Never changes anything.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    AuditEntry, Control, Error, PendingEntry, background,
    shapes::{Money, money},
};
use crate::{
    domain::{Delivery, Reference, StreamId},
    ledger::{AttemptRow, PAGE_MAX, StoredPayment},
    stream::{Body, Place, Seen},
};

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
    #[schema(value_type = Option<Money>)]
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
        let stored = match self.desk.stored(reference).await {
            Ok(stored) => Some(stored),
            Err(error) => background::unless_away(error)?,
        };
        let ledger_available = stored.is_some();
        let stored = stored.unwrap_or_default();
        let waiting = match self.waiting(reference, &stored).await {
            Ok(waiting) => waiting,
            // What the ledger has is told without Redis.
            Err(error) if error.is_outage() && !stored.is_empty() => Vec::new(),
            Err(error) => return Err(error),
        };
        if stored.is_empty() && waiting.is_empty() {
            return Ok(None);
        }
        let mut moments = self.moments_of(&stored).await?;
        for entry in &waiting {
            moments.extend(entry.moments());
            if ledger_available && !entry.stored {
                let Place { partition, stream_id, .. } = entry.place;
                let attempts = self.desk.attempts(partition.into(), stream_id).await?;
                moments.extend(attempts.iter().map(attempted));
            }
        }
        if ledger_available {
            let changes = self.audit_log(Some(reference.as_str()), None, PAGE_MAX).await?;
            moments.extend(changes.iter().map(changed));
        }
        // What has no time stays where its story has it.
        moments.sort_by_key(|moment| moment.at.unwrap_or_default());
        let mut life = match main_of(&stored) {
            Some(row) => of_stored(row),
            None => of_waiting(waiting.first()),
        };
        life.transaction_reference = reference.as_str().to_owned();
        life.pending = waiting.into_iter().find_map(|entry| entry.pending);
        Ok(Some(Life { moments, ledger_available, ..life }))
    }

    /// What the streams have of a reference: what is remembered, or else what has
    /// waited for longer than that.
    pub(super) async fn seen(&self, reference: &Reference) -> Result<Vec<Seen>, Error> {
        let finder = &self.looks().await?.finder;
        let recent = finder.recent(reference).await?;
        if !recent.is_empty() {
            return Ok(recent);
        }
        Ok(finder.long_waiting(reference, (self.clock)()).await?.into_iter().collect())
    }

    /// Entries of a reference that the ledger does not have.
    async fn waiting(
        &self,
        reference: &Reference,
        stored: &[StoredPayment],
    ) -> Result<Vec<Waiting>, Error> {
        let mut waiting = Vec::new();
        let background = self.background().await?;
        for Seen { status, place, .. } in self.seen(reference).await? {
            let (partition, id) = (place.partition, place.stream_id);
            let pending = self.looks().await?.inspector.one(partition, id).await?;
            let is_stored = |row: &StoredPayment| {
                row.partition == i32::from(partition) && row.stream_id == id.to_string()
            };
            if pending.is_none() && stored.iter().any(is_stored) {
                continue;
            }
            let handed = pending.clone();
            let pending = self.judged(pending.into_iter().collect(), background.as_ref()).await?;
            let body = self.looks().await?.inspector.bodies(&[(partition, id)]).await?.pop();
            waiting.push(Waiting {
                status: status.as_str(),
                place,
                body,
                handed: handed.map(|handed| (self.clock)() - handed.idle),
                pending: pending.into_iter().next(),
                stored: stored.iter().any(is_stored),
            });
        }
        Ok(waiting)
    }

    /// What the rows of the ledger tell.
    async fn moments_of(&self, stored: &[StoredPayment]) -> Result<Vec<Moment>, Error> {
        let mut moments = Vec::new();
        let mut told = HashSet::new();
        for row in stored {
            // A dead letter that was redriven has two rows of one entry.
            if told.insert((row.partition, &row.stream_id)) {
                let same = |other: &&StoredPayment| {
                    other.stream_id == row.stream_id && other.received_at.is_some()
                };
                moments.extend(self.way_of(stored.iter().find(same).unwrap_or(row)).await?);
            }
            moments.push(settled(row));
        }
        Ok(moments)
    }

    /// How an entry came to the ledger.
    async fn way_of(&self, row: &StoredPayment) -> Result<Vec<Moment>, Error> {
        let mut moments = Vec::new();
        let what = row.payment_status.as_deref().unwrap_or("payment");
        let received = format!("{what} was received");
        moments.extend(row.received_at.map(|at| moment(Some(at), "received", received)));
        let id: StreamId = row.stream_id.parse().unwrap_or_default();
        let (partition, sequence) = (row.partition, row.sequence);
        moments.push(appended(partition, sequence, id));
        if let Some(owner) = self.desk.owner_under(partition, row.epoch).await? {
            let sentence = format!(
                "taken by {}, which owned partition {partition} under epoch {} since {}",
                owner.owner,
                owner.epoch,
                owner.acquired_at.format(SECOND)
            );
            // When it was handed out is not kept; it was before it ended.
            let at = appended_at(id).map(|at| at.min(row.at));
            moments.push(moment(at, "taken", sentence));
        }
        let attempts = self.desk.attempts(partition, id).await?;
        moments.extend(attempts.iter().map(attempted));
        Ok(moments)
    }
}

/// How a time is written in a sentence.
const SECOND: &str = "%Y-%m-%d %H:%M:%S UTC";

/// An entry that the ledger does not have, or that is pending still.
struct Waiting {
    status: &'static str,
    place: Place,
    body: Option<Body>,
    /// When it was handed out last.
    handed: Option<DateTime<Utc>>,
    pending: Option<PendingEntry>,
    /// The ledger has it: only its acknowledgement is to come.
    stored: bool,
}

impl Waiting {
    fn delivery(&self) -> Option<&Delivery> {
        match &self.body {
            Some(Body::Delivery(delivery)) => Some(delivery),
            Some(Body::Unreadable(_) | Body::Deleted) | None => None,
        }
    }

    fn trace_id(&self) -> Option<String> {
        self.delivery()?.trace_id().map(|trace_id| trace_id.to_string())
    }

    fn moments(&self) -> Vec<Moment> {
        let mut moments = Vec::new();
        if !self.stored {
            let Place { partition, sequence, stream_id } = self.place;
            let received_at = self.delivery().map(|delivery| delivery.received_at);
            let what = format!("{} was received", self.status);
            moments.extend(received_at.map(|at| moment(Some(at), "received", what)));
            moments.push(appended(partition.into(), Some(sequence), stream_id));
        }
        if let Some(pending) = &self.pending {
            let times = match pending.deliveries {
                1 => "once".to_owned(),
                many => format!("{many} times"),
            };
            let sentence = format!("taken {times}, last by {}", pending.consumer);
            moments.push(moment(self.handed, "taken", sentence));
            let verdict = &pending.verdict;
            moments.push(Moment {
                failed: verdict.trouble,
                ..moment(self.handed, verdict.code, verdict.sentence.clone())
            });
        }
        moments
    }
}

fn moment(at: Option<DateTime<Utc>>, code: &str, sentence: String) -> Moment {
    Moment { at, code: code.to_owned(), sentence, failed: false }
}

fn appended_at(id: StreamId) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(id.milliseconds).ok()?)
}

fn appended(partition: i32, sequence: Option<i64>, id: StreamId) -> Moment {
    let sequence = sequence.map_or_else(|| "unknown".to_owned(), |sequence| sequence.to_string());
    let sentence = format!("appended to partition {partition} as entry {id}, sequence {sequence}");
    moment(appended_at(id), "appended", sentence)
}

fn attempted(row: &AttemptRow) -> Moment {
    let AttemptRow { attempt, error, worker, epoch, at, .. } = row;
    match error {
        Some(error) => Moment {
            failed: true,
            ..moment(
                Some(*at),
                "attempt_failed",
                format!("attempt {attempt} by {worker} under epoch {epoch} failed: {error}"),
            )
        },
        None => {
            let sentence = format!("attempt {attempt} began, by {worker} under epoch {epoch}");
            moment(Some(*at), "attempt", sentence)
        }
    }
}

fn settled(row: &StoredPayment) -> Moment {
    // What was done with a dead letter is told by whoever did it.
    let was_dead = matches!(row.state.as_str(), "dead_lettered" | "redriven" | "discarded");
    if was_dead {
        let reason = row.reason.as_deref().unwrap_or_default();
        let sentence = format!("became a dead letter: {reason}");
        return Moment { failed: true, ..moment(Some(row.at), "dead_lettered", sentence) };
    }
    let failed = matches!(row.state.as_str(), "rejected" | "conflict");
    let code = row.state.trim_start_matches("was_");
    Moment { failed, ..moment(Some(row.at), code, sentence_of(row)) }
}

fn changed(change: &AuditEntry) -> Moment {
    let AuditEntry { at, actor, action, reason, .. } = change;
    let action = action.replace('_', " ");
    let why = reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
    moment(Some(*at), "changed", format!("{action} by {actor}{why}"))
}

/// What a row of the ledger means.
fn sentence_of(row: &StoredPayment) -> String {
    let customer = row.customer_id.as_deref().unwrap_or("an unknown customer");
    let reason = row.reason.as_deref().unwrap_or("no reason is kept");
    let left = row.balance_after.map(money).unwrap_or_default();
    let version = row.account_version.unwrap_or_default();
    match row.state.as_str() {
        "applied" => {
            let applied = row.applied_amount.map(money).unwrap_or_default();
            let excess = row.excess_amount.filter(|excess| !excess.is_zero()).map(money);
            let excess = excess.map_or_else(String::new, |e| format!(", {e} to the credit"));
            format!("applied to {customer}: {applied} paid{excess}; {left} left, row {version}")
        }
        "recorded" => format!("recorded for {customer}; it moves no money"),
        "rejected" => format!("rejected by the account of {customer}: {reason}"),
        "suspense" => format!("held in suspense: no customer has the id {customer}"),
        "refund_marked" => "held in suspense and marked for refund".to_owned(),
        "was_suspense" => format!("held in suspense: no customer had the id {customer}"),
        "parked" | "was_parked" => format!("parked behind a dead letter of {customer}"),
        "dead_lettered" => format!("became a dead letter: {reason}"),
        "redriven" => "was a dead letter and has been redriven".to_owned(),
        "discarded" => format!("was a dead letter and has been discarded: {reason}"),
        "conflict" => "came under a used reference with other content; no effect".to_owned(),
        "duplicate" => "came again with the same content; no effect".to_owned(),
        other => other.to_owned(),
    }
}

/// The row that tells where the payment is: the one that moves money, else the
/// last that is not about a repetition.
fn main_of(stored: &[StoredPayment]) -> Option<&StoredPayment> {
    let counts = |row: &&StoredPayment| {
        let state = row.state.as_str();
        !matches!(state, "conflict" | "duplicate" | "redriven" | "was_suspense" | "was_parked")
    };
    let complete = |row: &&StoredPayment| row.payment_status.as_deref() == Some("COMPLETE");
    let counting = || stored.iter().filter(counts);
    counting().find(complete).or_else(|| counting().next_back()).or(stored.last())
}

fn of_stored(row: &StoredPayment) -> Life {
    let hexadecimal = |bytes: &Vec<u8>| {
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    };
    Life {
        state: row.state.clone(),
        sentence: sentence_of(row),
        customer_id: row.customer_id.clone(),
        transaction_amount: row.amount.map(money),
        payment_status: row.payment_status.clone(),
        partition: u16::try_from(row.partition).ok(),
        sequence: row.sequence,
        stream_id: Some(row.stream_id.clone()),
        trace_id: row.trace_id.as_ref().map(hexadecimal),
        ..of_waiting(None)
    }
}

fn of_waiting(waiting: Option<&Waiting>) -> Life {
    let payment = waiting.and_then(Waiting::delivery).map(|delivery| &delivery.payment);
    let verdict = waiting.and_then(|waiting| waiting.pending.as_ref());
    let verdict = verdict.map(|pending| pending.verdict.sentence.clone());
    Life {
        transaction_reference: String::new(),
        state: "accepted".to_owned(),
        sentence: verdict
            .unwrap_or_else(|| "on disk in the stream; no worker has taken it yet".to_owned()),
        customer_id: payment.map(|payment| payment.customer.as_str().to_owned()),
        transaction_amount: payment.map(|payment| money(payment.amount.get())),
        payment_status: waiting.map(|waiting| waiting.status.to_owned()),
        partition: waiting.map(|waiting| waiting.place.partition),
        sequence: waiting.map(|waiting| waiting.place.sequence),
        stream_id: waiting.map(|waiting| waiting.place.stream_id.to_string()),
        trace_id: waiting.and_then(Waiting::trace_id),
        pending: None,
        moments: Vec::new(),
        ledger_available: true,
    }
}
