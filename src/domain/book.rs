//! The decision about each delivery, in stream order, over running balances.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    Account, Amount, CustomerId, Digest, Outcome, Payment, PaymentStatus, Reference, StreamId,
    TraceContext, TraceId,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub partition: u16,
    pub sequence: i64,
    pub stream_id: StreamId,
    pub received_at: DateTime<Utc>,
    pub payment: Payment,
    /// [`Payment::digest`] of the payment as it was sent; kept when it is assigned to another
    /// customer.
    pub digest: Digest,
    pub trace: Option<TraceContext>,
    pub evidence: Option<Arc<Evidence>>,
}

/// What a sender signed: the proof that it sent a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// `standard-webhooks`, for instance.
    pub scheme: String,
    /// Names the key, and never tells a secret.
    pub key: String,
    pub signature: String,
    /// What the signature covers; in a webhook the body follows.
    pub base: String,
    /// As it came.
    pub body: String,
}

impl Delivery {
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace.map(|trace| trace.trace_id)
    }
}

/// An entry that cannot be settled, with its readable parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadEntry {
    pub partition: u16,
    pub stream_id: StreamId,
    pub sequence: Option<i64>,
    pub reference: Option<String>,
    pub customer: Option<CustomerId>,
    pub amount: Option<Amount>,
    pub trace_id: Option<TraceId>,
    pub reason: String,
    /// Invalid UTF-8 is replaced.
    pub fields: Vec<(String, String)>,
}

/// Catches a panic and returns its message; the caller discards what was worked on.
pub fn unpanicked<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedReference {
    pub digest: Digest,
    pub partition: u16,
    pub sequence: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    pub delivery: &'a Delivery,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
struct Opened {
    account: Account,
    version: i64,
}

/// The accounts and used references that a batch may touch. Decides delivery by delivery and
/// keeps both up to date.
#[derive(Clone, Debug, Default)]
pub struct Book {
    accounts: HashMap<CustomerId, Opened>,
    known: HashMap<(Reference, PaymentStatus), UsedReference>,
}

impl Book {
    pub fn new(
        accounts: impl IntoIterator<Item = Account>,
        known: impl IntoIterator<Item = ((Reference, PaymentStatus), UsedReference)>,
    ) -> Self {
        let accounts = accounts.into_iter().map(|account| {
            (account.customer.clone(), Opened { version: account.version, account })
        });
        Self { accounts: accounts.collect(), known: known.into_iter().collect() }
    }

    /// Decides one delivery. The order of calls is the order of effects.
    pub fn decide(&mut self, delivery: &Delivery) -> Outcome {
        let Delivery { payment, digest, .. } = delivery;
        let key = (payment.reference.clone(), payment.status);
        if let Some(known) = self.known.get(&key) {
            return known.meet(delivery);
        }
        let outcome = match (self.accounts.get_mut(&payment.customer), payment.status) {
            (Some(open), _) if open.account.parked => Outcome::Parked,
            (Some(open), PaymentStatus::Complete) => open.account.apply(payment.amount),
            (Some(open), PaymentStatus::Pending | PaymentStatus::Failed) => open.account.record(),
            (None, PaymentStatus::Complete) => Outcome::Suspense,
            (None, PaymentStatus::Pending | PaymentStatus::Failed) => {
                Outcome::Recorded { after: None }
            }
        };
        let Delivery { partition, sequence, .. } = *delivery;
        self.known.insert(key, UsedReference { digest: *digest, partition, sequence });
        outcome
    }

    /// Changed accounts, each with the version it had when the book was opened.
    pub fn touched(&self) -> impl Iterator<Item = (&Account, i64)> {
        let touched = self.accounts.values().filter(|open| open.account.version != open.version);
        touched.map(|open| (&open.account, open.version))
    }

    /// Settles payments of parked customers, too; returns whether any customer was parked.
    pub fn unpark(&mut self) -> bool {
        let mut any = false;
        for open in self.accounts.values_mut() {
            any |= std::mem::take(&mut open.account.parked);
        }
        any
    }

    pub fn account(&self, customer: &CustomerId) -> Option<&Account> {
        self.accounts.get(customer).map(|open| &open.account)
    }
}

impl UsedReference {
    fn meet(&self, delivery: &Delivery) -> Outcome {
        if self.digest != delivery.digest {
            Outcome::Conflict
        } else if (self.partition, self.sequence) == (delivery.partition, delivery.sequence) {
            Outcome::Redelivered
        } else {
            Outcome::Duplicate
        }
    }
}
