//! Payments that lie in streams of earlier topologies, which nobody takes, and how
//! they are given to the current ones. What the ledger has is not given again.

use std::{collections::BTreeMap, time::Duration};

use super::{Control, Error, Finding, Severity, finding as kind};
use crate::{
    domain::{Delivery, Reference},
    ledger::PaymentRow,
    stream::{AppendLimits, Arrival, LeftBehind},
};

/// How the payments are appended.
const LIMITS: AppendLimits = AppendLimits {
    backlog_max: u32::MAX,
    dedupe_window: super::DEDUPE_WINDOW,
    deadline: Duration::from_secs(10),
};

impl Control {
    /// Entries in streams of earlier topologies, and whether the ledger has them;
    /// at most 1,000 of each stream, of the last 8 topologies.
    async fn left_behind(&self) -> Result<Vec<(LeftBehind, bool)>, Error> {
        let mut entries = Vec::new();
        for past in self.ledger.schema().past().await? {
            entries.extend(self.streams.left_behind(past.generation, past.partitions).await?);
        }
        let payments = entries.iter().filter_map(|entry| entry.delivery.as_ref().ok());
        let references: Vec<Reference> =
            payments.map(|delivery| delivery.payment.reference.clone()).collect();
        let known = match references.is_empty() {
            true => Vec::new(),
            false => self.reader.payments(&references).await?,
        };
        let is_known = |entry: &LeftBehind| {
            let delivery = entry.delivery.as_ref();
            delivery.is_ok_and(|delivery| known.iter().any(|row| is_of(row, delivery)))
        };
        let judged = |entry: LeftBehind| {
            let known = is_known(&entry);
            (entry, known)
        };
        Ok(entries.into_iter().map(judged).collect())
    }

    /// What the doctor says of them.
    pub(super) async fn look_for_left_behind(&self) -> Option<Finding> {
        let entries = self.left_behind().await.ok()?;
        let count = entries.iter().filter(|(_, known)| !known).count();
        let Some((first, _)) = entries.iter().find(|(_, known)| !known) else {
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

    /// Gives the payments in streams of earlier topologies to the current ones,
    /// each stream's in its order; says how many, and where it stopped because an
    /// entry cannot be read. Done again, what was given already has no second effect.
    pub async fn carry_on(&self) -> Result<(usize, Vec<String>), Error> {
        let (mut given, mut stopped) = (0, BTreeMap::new());
        let producer = self.streams.producer(LIMITS).await?;
        loop {
            let mut entries = self.left_behind().await?;
            entries.retain(|(entry, _)| !stopped.contains_key(&entry.stream));
            if entries.is_empty() {
                return Ok((given, stopped.into_values().collect()));
            }
            for (entry, known) in &entries {
                let LeftBehind { stream, stream_id, delivery, .. } = entry;
                match delivery {
                    _ if stopped.contains_key(stream) => continue,
                    Err(why) => {
                        let sentence =
                            format!("entry {stream_id} of {stream} cannot be read: {why}");
                        stopped.insert(stream.clone(), sentence);
                        continue;
                    }
                    Ok(_) if *known => {}
                    Ok(delivery) => {
                        let Delivery { payment, received_at, trace, .. } = delivery.clone();
                        producer.append(&Arrival { payment, received_at, trace }).await?;
                        given += 1;
                    }
                }
                self.streams.pass(std::slice::from_ref(entry)).await?;
            }
        }
    }
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
