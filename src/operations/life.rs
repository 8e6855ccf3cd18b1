//! One payment's whole life, as a timeline: received, appended, taken, tried,
//! settled, and what was changed by hand. Never changes anything.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{AuditEntry, AuditFilter, Error, Money, Operations, PendingEntry};
use crate::{
    domain::{Delivery, Reference, StreamId},
    ledger::{AttemptRow, EvidenceRow, StoredPayment},
    stream::UnsettledEntry,
};

/// What is said of a reference that neither store has: its payment may be lost.
pub const NOTHING_KNOWN: &str = "nothing is known under this reference";

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Life {
    pub transaction_reference: String,
    /// Where it is now: `accepted`, or as the ledger has it.
    pub state: String,
    /// What that means, as a sentence.
    pub sentence: String,
    pub customer_id: Option<String>,
    pub transaction_amount: Option<Money>,
    /// What the bank said: COMPLETE, PENDING or FAILED.
    pub payment_status: Option<String>,
    pub partition: Option<u16>,
    pub sequence: Option<i64>,
    pub stream_id: Option<String>,
    /// The trace that brought it, in hexadecimal.
    pub trace_id: Option<String>,
    /// The pending entry, while there is one.
    pub pending: Option<PendingEntry>,
    pub moments: Vec<LifeEvent>,
    /// What its sender signed, where it did.
    pub evidence: Vec<EvidenceRow>,
    /// Whether the ledger could be asked.
    pub ledger_available: bool,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Moment)]
pub struct LifeEvent {
    /// When; nothing where it is not known.
    pub at: Option<DateTime<Utc>>,
    /// Stable, for programs: `received`, `appended`, `taken`, `attempt`,
    /// `attempt_failed`, `applied`, and so on.
    pub code: String,
    pub sentence: String,
    pub failed: bool,
}

impl Operations {
    /// What operators are told of a reference that neither store has.
    pub async fn nothing_known(&self) -> String {
        match self.reader.open_losses().await {
            Ok(1..) => format!(
                "{NOTHING_KNOWN}; losses are open, and it may be among them: see `paystream losses \
                 list`"
            ),
            _ => NOTHING_KNOWN.to_owned(),
        }
    }

    /// The life of the payment of this reference; nothing when nobody knows it.
    pub async fn life(&self, reference: &Reference) -> Result<Option<Life>, Error> {
        // The streams first: what does not wait in them is in the ledger by then.
        let seen = self.seen(reference).await;
        let stored = self.if_there(self.admin.stored(reference)).await?;
        let ledger_available = stored.is_some();
        let stored = stored.unwrap_or_default();
        let waiting = match seen {
            Ok(seen) => self.waiting(seen, &stored).await,
            Err(error) => Err(error),
        };
        let waiting = match waiting {
            Ok(waiting) => waiting,
            // What the ledger has is told without Redis.
            Err(error) if error.is_of_streams() && !stored.is_empty() => Vec::new(),
            Err(error) => return Err(error),
        };
        if stored.is_empty() && waiting.is_empty() {
            return match ledger_available {
                true => self.archived(reference).await,
                false => Err(Error::LedgerAway),
            };
        }
        let mut stories = self.stories_of(&stored).await?;
        for entry in &waiting {
            let mut attempts = Vec::new();
            if ledger_available && !entry.stored {
                let UnsettledEntry { partition, stream_id, .. } = entry.seen;
                attempts = self.admin.attempts(partition.into(), stream_id).await?;
            }
            stories.push(entry.story(&attempts));
        }
        if ledger_available {
            let changes = self.audit_log(&AuditFilter::of(reference.as_str())).await?;
            stories.extend(changes.rows.iter().map(|change| vec![changed(change)]));
        }
        let mut life = match main_of(&stored) {
            Some(row) => of_stored(row),
            None => of_waiting(waiting.first()),
        };
        life.transaction_reference = reference.as_str().to_owned();
        if ledger_available {
            life.evidence = self.admin.evidence(reference).await?;
        }
        life.pending = waiting.into_iter().find_map(|entry| entry.pending);
        Ok(Some(Life { moments: in_order(stories), ledger_available, ..life }))
    }

    /// What is still known of a payment whose month has left the ledger.
    async fn archived(&self, reference: &Reference) -> Result<Option<Life>, Error> {
        let rows = self.reader.payments(std::slice::from_ref(reference)).await?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let sentence = "was settled in a month that has left the ledger; its row is in the archive";
        let at = row.processed_at;
        let changes = self.audit_log(&AuditFilter::of(reference.as_str())).await?;
        let mut moments = vec![moment(at, row.state.as_str(), sentence.to_owned())];
        moments.extend(in_order(changes.rows.iter().map(|change| vec![changed(change)]).collect()));
        Ok(Some(Life {
            transaction_reference: reference.as_str().to_owned(),
            state: row.state.as_str().to_owned(),
            sentence: sentence.to_owned(),
            payment_status: row.payment_status,
            partition: row.partition.and_then(|partition| u16::try_from(partition).ok()),
            sequence: row.sequence,
            moments,
            evidence: self.admin.evidence(reference).await?,
            ..of_waiting(None)
        }))
    }

    /// Entries of a reference that our group has not acknowledged.
    pub(super) async fn seen(&self, reference: &Reference) -> Result<Vec<UnsettledEntry>, Error> {
        let finder = &self.looks().await?.finder;
        let unsettled = finder.unacknowledged().await?;
        Ok(finder.find(std::slice::from_ref(reference), &unsettled).await?)
    }

    /// The same, with what is known of each.
    async fn waiting(
        &self,
        seen: Vec<UnsettledEntry>,
        stored: &[StoredPayment],
    ) -> Result<Vec<WaitingEntry>, Error> {
        let mut waiting = Vec::new();
        if seen.is_empty() {
            return Ok(waiting);
        }
        let background = self.background().await?;
        for seen in seen {
            let pending = self.looks().await?.inspector.one(seen.partition, seen.stream_id).await?;
            let id = seen.stream_id.to_string();
            let is_stored = stored
                .iter()
                .any(|row| row.partition == i32::from(seen.partition) && row.stream_id == id);
            if pending.is_none() && is_stored {
                continue;
            }
            let handed = pending.as_ref().map(|handed| (self.clock)() - handed.idle);
            let pending = self.judged(pending.into_iter().collect(), background.as_ref()).await?;
            let pending = pending.into_iter().next();
            waiting.push(WaitingEntry { seen, handed, pending, stored: is_stored });
        }
        Ok(waiting)
    }

    /// What the rows of the ledger tell, entry by entry.
    async fn stories_of(&self, stored: &[StoredPayment]) -> Result<Vec<Story>, Error> {
        let mut stories: Vec<(&StoredPayment, Story)> = Vec::new();
        for row in stored {
            let same = |other: &StoredPayment| {
                (other.partition, &other.stream_id) == (row.partition, &row.stream_id)
            };
            // A dead letter that was redriven has two rows of one entry.
            if let Some((_, story)) = stories.iter_mut().find(|(first, _)| same(first)) {
                story.push(settled(row));
                continue;
            }
            let received = stored.iter().find(|other| same(other) && other.received_at.is_some());
            let mut story: Story = received.and_then(was_received).into_iter().collect();
            story.extend(self.way_of(row).await?);
            story.push(settled(row));
            stories.push((row, story));
        }
        Ok(stories.into_iter().map(|(_, story)| story).collect())
    }

    /// How an entry came to the ledger, by the first row that it has there.
    async fn way_of(&self, row: &StoredPayment) -> Result<Story, Error> {
        let id: StreamId = row.stream_id.parse().unwrap_or_default();
        let partition = row.partition;
        let attempts = self.admin.attempts(partition, id).await?;
        let mut way: Story = attempts.iter().map(attempted).collect();
        if let Some(owner) = self.admin.owner_under(partition, row.epoch).await? {
            let sentence = format!(
                "taken by {}, which owned partition {partition} under epoch {} since {}",
                owner.owner,
                owner.epoch,
                owner.acquired_at.format(SECOND)
            );
            // When it was handed out is not kept: not before the partition was acquired.
            way.push(Told { moment: moment(None, "taken", sentence), at: owner.acquired_at });
        }
        way.sort_by_key(|told| told.at);
        way.insert(0, appended(partition, row.sequence, id));
        Ok(way)
    }
}

/// How a time is written in a sentence.
const SECOND: &str = "%Y-%m-%d %H:%M:%S UTC";

/// An entry that the ledger does not have, or that is pending still.
struct WaitingEntry {
    seen: UnsettledEntry,
    /// When it was handed out last.
    handed: Option<DateTime<Utc>>,
    pending: Option<PendingEntry>,
    /// The ledger has it: only its acknowledgement is to come.
    stored: bool,
}

impl WaitingEntry {
    fn story(&self, attempts: &[AttemptRow]) -> Story {
        let (mut story, mut handled) = (Story::new(), Story::new());
        if !self.stored {
            let UnsettledEntry { partition, stream_id, delivery, .. } = &self.seen;
            if let Some(Delivery { payment, received_at, .. }) = delivery {
                let sentence = format!("{} was received", payment.status.as_str());
                story.push(told(*received_at, "received", sentence));
            }
            let sequence = delivery.as_ref().map(|delivery| delivery.sequence);
            story.push(appended(i32::from(*partition), sequence, *stream_id));
        }
        if let Some((pending, handed)) = self.pending.as_ref().zip(self.handed) {
            let times = match pending.deliveries {
                1 => "once".to_owned(),
                many => format!("{many} times"),
            };
            let sentence = format!("taken {times}, last by {}", pending.consumer);
            handled.push(told(handed, "taken", sentence));
            let verdict = &pending.verdict;
            let mut judged = told(handed, verdict.code, verdict.sentence.clone());
            judged.moment.failed = verdict.trouble;
            handled.push(judged);
        }
        handled.extend(attempts.iter().map(attempted));
        handled.sort_by_key(|told| told.at);
        story.extend(handled);
        story
    }
}

/// What happened to one entry, in the order in which it happened.
type Story = Vec<Told>;

/// A moment, and where it stands among those of other stories.
struct Told {
    moment: LifeEvent,
    at: DateTime<Utc>,
}

/// Moments of all stories by their time. Those of one story stay in its order,
/// though clocks of different machines may contradict it.
fn in_order(stories: Vec<Story>) -> Vec<LifeEvent> {
    let mut all = Story::new();
    for story in stories {
        let mut latest = DateTime::<Utc>::MIN_UTC;
        for told in story {
            latest = latest.max(told.at);
            all.push(Told { at: latest, ..told });
        }
    }
    all.sort_by_key(|told| told.at);
    all.into_iter().map(|told| told.moment).collect()
}

fn moment(at: Option<DateTime<Utc>>, code: &str, sentence: String) -> LifeEvent {
    LifeEvent { at, code: code.to_owned(), sentence, failed: false }
}

fn told(at: DateTime<Utc>, code: &str, sentence: String) -> Told {
    Told { moment: moment(Some(at), code, sentence), at }
}

fn was_received(row: &StoredPayment) -> Option<Told> {
    let what = row.payment_status.as_deref().unwrap_or("payment");
    Some(told(row.received_at?, "received", format!("{what} was received")))
}

fn appended(partition: i32, sequence: Option<i64>, id: StreamId) -> Told {
    let sequence = sequence.map_or_else(|| "unknown".to_owned(), |sequence| sequence.to_string());
    let sentence = format!("appended to partition {partition} as entry {id}, sequence {sequence}");
    let at = i64::try_from(id.milliseconds).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    Told { moment: moment(at, "appended", sentence), at: at.unwrap_or(DateTime::<Utc>::MIN_UTC) }
}

fn attempted(row: &AttemptRow) -> Told {
    let AttemptRow { attempt, error, worker, epoch, at, .. } = row;
    match error {
        Some(error) => {
            let sentence =
                format!("attempt {attempt} by {worker} under epoch {epoch} failed: {error}");
            failed(told(*at, "attempt_failed", sentence))
        }
        None => {
            let sentence = format!(
                "tried by {worker} under epoch {epoch}, as attempt {attempt}; a lock or an outage \
                 does not count"
            );
            told(*at, "attempt", sentence)
        }
    }
}

fn failed(mut told: Told) -> Told {
    told.moment.failed = true;
    told
}

fn settled(row: &StoredPayment) -> Told {
    // What was done with a dead letter is told by whoever did it.
    let was_dead = matches!(row.state.as_str(), "dead_lettered" | "redriven" | "discarded");
    if was_dead {
        let reason = row.reason.as_deref().unwrap_or_default();
        return failed(told(row.at, "dead_lettered", format!("became a dead letter: {reason}")));
    }
    let settled = told(row.at, row.state.trim_start_matches("was_"), sentence_of(row));
    match row.state.as_str() {
        "rejected" | "conflict" => failed(settled),
        _ => settled,
    }
}

fn changed(change: &AuditEntry) -> Told {
    let AuditEntry { at, actor, action, reason, .. } = change;
    let action = action.replace('_', " ");
    let why = reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
    told(*at, "changed", format!("{action} by {actor}{why}{}", change.under()))
}

/// What a row of the ledger means.
fn sentence_of(row: &StoredPayment) -> String {
    let customer = row.customer_id.as_deref().unwrap_or("an unknown customer");
    let reason = row.reason.as_deref().unwrap_or("no reason is kept");
    let left = Money(row.balance_after.unwrap_or_default());
    let version = row.account_version.unwrap_or_default();
    match row.state.as_str() {
        "applied" => {
            let applied = Money(row.applied_amount.unwrap_or_default());
            let excess = row.excess_amount.filter(|excess| !excess.is_zero()).map(Money);
            let excess = excess.map_or_else(String::new, |e| format!(", {e} to the credit"));
            format!("applied to {customer}: {applied} paid{excess}; {left} left, row {version}")
        }
        "recorded" => format!("recorded for {customer}; it moves no money"),
        "rejected" => format!("rejected by the account of {customer}: {reason}"),
        "suspense" => format!("held in suspense: no customer has the id {customer}"),
        "refund_marked" => format!("marked for refund; no customer had the id {customer}"),
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
    let complete = |row: &&StoredPayment| {
        let is_dead = matches!(row.state.as_str(), "dead_lettered" | "discarded");
        row.payment_status.as_deref() == Some("COMPLETE") && !is_dead
    };
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
        transaction_amount: row.amount.map(Money),
        payment_status: row.payment_status.clone(),
        partition: u16::try_from(row.partition).ok(),
        sequence: row.sequence,
        stream_id: Some(row.stream_id.clone()),
        trace_id: row.trace_id.as_ref().map(hexadecimal),
        ..of_waiting(None)
    }
}

fn of_waiting(waiting: Option<&WaitingEntry>) -> Life {
    let seen = waiting.map(|waiting| &waiting.seen);
    let delivery = seen.and_then(|seen| seen.delivery.as_ref());
    let payment = delivery.map(|delivery| &delivery.payment);
    let verdict = waiting.and_then(|waiting| waiting.pending.as_ref());
    let verdict = verdict.map(|pending| pending.verdict.sentence.clone());
    Life {
        transaction_reference: String::new(),
        state: "accepted".to_owned(),
        sentence: verdict
            .unwrap_or_else(|| "on disk in the stream; no worker has taken it yet".to_owned()),
        customer_id: payment.map(|payment| payment.customer.as_str().to_owned()),
        transaction_amount: payment.map(|payment| Money(payment.amount.get())),
        payment_status: payment.map(|payment| payment.status.as_str().to_owned()),
        partition: seen.map(|seen| seen.partition),
        sequence: delivery.map(|delivery| delivery.sequence),
        stream_id: seen.map(|seen| seen.stream_id.to_string()),
        trace_id: delivery.and_then(Delivery::trace_id).map(|trace_id| trace_id.to_string()),
        pending: None,
        moments: Vec::new(),
        evidence: Vec::new(),
        ledger_available: true,
    }
}
