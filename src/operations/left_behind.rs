//! Payments that lie in streams of earlier topologies, which nobody takes, and how
//! they are given to the current ones. What the ledger has is not given again.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{Error, Finding, Money, Operations, Severity, finding as kind};
use crate::{
    domain::{Delivery, Reference, StreamId},
    ledger::PaymentRow,
    stream::{self, AppendLimits, Appended, LeftBehind, Past, Producer, ReceivedPayment},
};

/// How the payments are appended.
const LIMITS: AppendLimits = AppendLimits {
    backlog_max: u32::MAX,
    share_max: u32::MAX,
    dedupe_window: super::DEDUPE_WINDOW,
    deadline: Duration::from_secs(10),
};

impl Operations {
    /// Entries that wait in streams of an earlier topology, and whether the ledger has
    /// them; at most 1,000 of each stream.
    async fn waiting_in(&self, past: &mut Past) -> Result<Vec<(LeftBehind, bool)>, Error> {
        let entries = past.waiting().await?;
        let payments = entries.iter().filter_map(|entry| entry.delivery.as_ref()?.as_ref().ok());
        let references: Vec<Reference> =
            payments.map(|delivery| delivery.payment.reference.clone()).collect();
        let known = match references.is_empty() {
            true => Vec::new(),
            false => self.reader.payments(&references).await?,
        };
        let mut rows: HashMap<&str, Vec<&PaymentRow>> = HashMap::new();
        for row in &known {
            rows.entry(&row.transaction_reference).or_default().push(row);
        }
        let is_known = |entry: &LeftBehind| match &entry.delivery {
            Some(Ok(delivery)) => {
                let rows = rows.get(delivery.payment.reference.as_str());
                rows.is_some_and(|rows| rows.iter().any(|row| is_of(row, delivery)))
            }
            Some(Err(_)) => false,
            // It was deleted.
            None => true,
        };
        let judged = |entry: LeftBehind| {
            let known = is_known(&entry);
            (entry, known)
        };
        Ok(entries.into_iter().map(judged).collect())
    }

    /// Entries in streams of the last 8 topologies that the ledger does not have.
    async fn left_behind(&self) -> Result<Vec<LeftBehind>, Error> {
        let mut unknown = Vec::new();
        for mut past in self.past_streams().await? {
            let entries = self.waiting_in(&mut past).await?.into_iter();
            unknown.extend(entries.filter(|(_, known)| !known).map(|(entry, _)| entry));
        }
        Ok(unknown)
    }

    /// The streams of the last 8 topologies, the newest first.
    async fn past_streams(&self) -> Result<Vec<Past>, Error> {
        let past = self.ledger.schema().past().await?;
        let past: Vec<_> = past.iter().map(|one| (one.generation, one.partitions)).collect();
        Ok(self.streams.past(&past).await?)
    }

    /// What the doctor says of them.
    pub(super) async fn look_for_left_behind(&self) -> Option<Finding> {
        let entries = self.left_behind().await.ok()?;
        let count = entries.len();
        let Some(first) = entries.first() else {
            return Some(kind::LEFT.good());
        };
        let what = if count == 1 { "payment waits" } else { "payments wait" };
        let sentence = format!(
            "{count} {what} in streams of an earlier topology, which nobody serves: a Redis took \
             over that lacked the end of its change. The first is {} in {}",
            first.stream_id, first.stream
        );
        Some(kind::LEFT.found(Severity::Critical, sentence))
    }

    /// Gives the payments in streams of earlier topologies to the current ones, those
    /// of the oldest first, each stream's in its order; says how many, and where it
    /// stopped. Done again, what was given already has no second effect.
    pub async fn carry_on(&self) -> Result<(usize, Vec<String>), Error> {
        let producer = self.streams.producer(LIMITS).await?;
        let mut carried = Carried::default();
        for mut past in self.past_streams().await?.into_iter().rev() {
            while self.carry_round(&producer, &mut past, &mut carried).await? {}
            // A customer's payments may go on in any stream of the next topology.
            if !carried.stopped.is_empty() {
                break;
            }
        }
        Ok((carried.given, carried.stopped.into_values().collect()))
    }

    /// Carries on what is looked at at once; says whether there was any.
    async fn carry_round(
        &self,
        producer: &Producer,
        past: &mut Past,
        carried: &mut Carried,
    ) -> Result<bool, Error> {
        let mut entries = self.waiting_in(past).await?;
        entries.retain(|(entry, _)| !carried.stopped.contains_key(&entry.stream));
        for (entry, known) in &entries {
            let LeftBehind { stream, stream_id, delivery, .. } = entry;
            if carried.stopped.contains_key(stream) {
                continue;
            }
            if let Some(why) = carried.obstacle(entry) {
                let sentence = format!("entry {stream_id} of {stream} {why}");
                carried.stopped.insert(stream.clone(), sentence);
                continue;
            }
            if let (Some(Ok(delivery)), false) = (delivery, known) {
                carried.given += usize::from(give(producer, delivery).await?);
            }
            past.pass(entry).await?;
            carried.passed.insert(stream.clone(), *stream_id);
        }
        Ok(!entries.is_empty())
    }
}

/// How far the streams of earlier topologies are carried on.
#[derive(Default)]
struct Carried {
    given: usize,
    passed: BTreeMap<String, StreamId>,
    stopped: BTreeMap<String, String>,
}

impl Carried {
    /// Why this entry cannot be passed.
    fn obstacle(&self, entry: &LeftBehind) -> Option<String> {
        let last = self.passed.get(&entry.stream);
        if last.is_some_and(|last| entry.stream_id <= *last) {
            return Some("was passed and waits again: somebody sets the group back".to_owned());
        }
        let why = entry.delivery.as_ref()?.as_ref().err()?;
        Some(format!(
            "cannot be read: {why}. Look at it with XRANGE, deal with it, take it away with XDEL, \
             and run it again"
        ))
    }
}

/// Appends a payment to the current streams; says whether it was not there already.
/// What has the reference of another payment is given, too: the ledger keeps it as a
/// conflict.
async fn give(producer: &Producer, delivery: &Delivery) -> Result<bool, stream::Error> {
    let Delivery { payment, received_at, trace, evidence, .. } = delivery.clone();
    let arrival = ReceivedPayment { payment, received_at, trace, evidence };
    let mut appended = producer.append(&arrival).await?;
    if matches!(appended, Appended::Conflict(_)) {
        appended = producer.beside().append(&arrival).await?;
    }
    Ok(matches!(appended, Appended::Accepted(_)))
}

/// Whether a row of the ledger with its reference is this payment.
fn is_of(row: &PaymentRow, delivery: &Delivery) -> bool {
    let payment = &delivery.payment;
    let same_entry = row.stream_id.as_deref() == Some(&*delivery.stream_id.to_string());
    let same_content = row.payment_status.as_deref() == Some(payment.status.as_str())
        && row.customer_id.as_deref() == Some(payment.customer.as_str())
        && row.amount == Some(Money(payment.amount.get()))
        && row.transaction_date == Some(payment.date);
    same_entry || same_content
}
