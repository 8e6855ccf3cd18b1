//! Payments that lie in streams of earlier topologies, which nobody takes, and how
//! they are given to the current ones. What the ledger has is not given again.

use std::{collections::BTreeMap, time::Duration};

use super::{Control, Error, Finding, Severity, finding as kind};
use crate::{
    domain::{Delivery, Reference},
    ledger::PaymentRow,
    stream::{self, AppendLimits, Appended, Arrival, LeftBehind, Past, Producer},
};

/// How the payments are appended.
const LIMITS: AppendLimits = AppendLimits {
    backlog_max: u32::MAX,
    dedupe_window: super::DEDUPE_WINDOW,
    deadline: Duration::from_secs(10),
};

impl Control {
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
        let is_known = |entry: &LeftBehind| match &entry.delivery {
            Some(Ok(delivery)) => known.iter().any(|row| is_of(row, delivery)),
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
        for topology in self.ledger.schema().past().await? {
            let mut past = self.streams.past(topology.generation, topology.partitions).await?;
            let entries = self.waiting_in(&mut past).await?.into_iter();
            unknown.extend(entries.filter(|(_, known)| !known).map(|(entry, _)| entry));
        }
        Ok(unknown)
    }

    /// What the doctor says of them.
    pub(super) async fn look_for_left_behind(&self) -> Option<Finding> {
        let entries = self.left_behind().await.ok()?;
        let count = entries.len();
        let Some(first) = entries.first() else {
            return Some(kind::LEFT.good("topology", "nothing waits in earlier streams"));
        };
        let what = if count == 1 { "payment waits" } else { "payments wait" };
        Some(kind::LEFT.found(
            Severity::Critical,
            "topology",
            format!(
                "{count} {what} in streams of an earlier topology, which nobody serves: a Redis \
                 took over that lacked the end of its change. The first is {} in {}",
                first.stream_id, first.stream
            ),
            "`paystream topology resize` again with the number there is: it gives them to the \
             current streams",
        ))
    }

    /// Gives the payments in streams of earlier topologies to the current ones, those
    /// of the oldest first, each stream's in its order; says how many, and where it
    /// stopped. Done again, what was given already has no second effect.
    pub async fn carry_on(&self) -> Result<(usize, Vec<String>), Error> {
        let (mut given, mut stopped) = (0, BTreeMap::new());
        let producer = self.streams.producer(LIMITS).await?;
        for topology in self.ledger.schema().past().await?.iter().rev() {
            let mut past = self.streams.past(topology.generation, topology.partitions).await?;
            let mut passed = BTreeMap::new();
            loop {
                let mut entries = self.waiting_in(&mut past).await?;
                entries.retain(|(entry, _)| !stopped.contains_key(&entry.stream));
                if entries.is_empty() {
                    break;
                }
                for (entry, known) in &entries {
                    let LeftBehind { stream, stream_id, delivery, .. } = entry;
                    if stopped.contains_key(stream) {
                        continue;
                    }
                    if passed.get(stream).is_some_and(|last| stream_id <= last) {
                        let why = "was passed and waits again: somebody sets the group back";
                        stopped.insert(stream.clone(), sentence(entry, why));
                        continue;
                    }
                    match delivery {
                        Some(Err(why)) => {
                            let why = format!(
                                "cannot be read: {why}. Look at it with XRANGE, deal with it, \
                                 take it away with XDEL, and run it again"
                            );
                            stopped.insert(stream.clone(), sentence(entry, &why));
                            continue;
                        }
                        Some(Ok(delivery)) if !known => {
                            given += usize::from(give(&producer, delivery).await?);
                        }
                        Some(Ok(_)) | None => {}
                    }
                    past.pass(entry).await?;
                    passed.insert(stream.clone(), *stream_id);
                }
            }
            // A customer's payments may go on in any stream of the next topology.
            if !stopped.is_empty() {
                break;
            }
        }
        Ok((given, stopped.into_values().collect()))
    }
}

fn sentence(entry: &LeftBehind, why: &str) -> String {
    format!("entry {} of {} {why}", entry.stream_id, entry.stream)
}

/// Appends a payment to the current streams; says whether it was not there already.
/// What has the reference of another payment is given, too: the ledger keeps it as a
/// conflict.
async fn give(producer: &Producer, delivery: &Delivery) -> Result<bool, stream::Error> {
    let Delivery { payment, received_at, trace, .. } = delivery.clone();
    let arrival = Arrival { payment, received_at, trace };
    let mut appended = producer.append(&arrival).await?;
    if matches!(appended, Appended::Conflict(_)) {
        appended = producer.beside().append(&arrival).await?;
    }
    Ok(matches!(appended, Appended::Accepted(_)))
}

/// Whether a row of the ledger is this payment.
fn is_of(row: &PaymentRow, delivery: &Delivery) -> bool {
    let payment = &delivery.payment;
    let same_entry = row.stream_id == delivery.stream_id.to_string();
    let same_content = row.payment_status.as_deref() == Some(payment.status.as_str())
        && row.customer_id.as_deref() == Some(payment.customer.as_str())
        && row.amount == Some(payment.amount.get())
        && row.transaction_date == Some(payment.date);
    row.transaction_reference == payment.reference.as_str() && (same_entry || same_content)
}
