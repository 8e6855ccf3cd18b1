//! Did each accepted payment have its effect once? Looks every reference up, and compares
//! what each customer's account grew by with the payments found applied. Judges from the
//! service's answers alone; never repairs anything.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use chrono::DateTime;
use hdrhistogram::Histogram;
use rust_decimal::Decimal;
use serde::Serialize;

use super::{
    api::FoundPayment,
    plan::{self, Content},
    record::{self, Fate},
    report::Percentiles,
};

/// So many references or customers are named; the rest is counted.
const NAMED_MAX: usize = 20;

/// How many, and the first of them.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Listed<T> {
    pub(super) count: u64,
    pub(super) first: Vec<T>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { count: 0, first: Vec::new() }
    }
}

impl<T> Listed<T> {
    fn add(&mut self, item: impl FnOnce() -> T) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(item());
        }
    }
}

/// What became of the payments whose request had no clear answer.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct UnknownOutcomes {
    pub(super) applied: u64,
    /// Nowhere to be found: they were never taken.
    pub(super) absent: u64,
    /// Any other outcome.
    pub(super) other: u64,
}

/// A customer whose account grew by another amount than its payments found applied.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Difference {
    pub(super) customer_id: String,
    pub(super) expected: Decimal,
    pub(super) actual: Decimal,
}

/// The verdict on the payments of one run.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Audit {
    /// References looked up: accepted ones, and those of unknown outcome.
    pub(super) accepted: u64,
    pub(super) by_status: BTreeMap<String, u64>,
    pub(super) unknown: UnknownOutcomes,
    /// Accepted, and nowhere to be found.
    pub(super) lost: Listed<String>,
    /// Accepted or found in the stream, and still not settled.
    pub(super) unsettled: Listed<String>,
    /// Found under another customer or with another amount than was sent.
    pub(super) altered: Listed<String>,
    /// Accepted behind a payment of the same customer that its batch had after it.
    pub(super) misordered: Listed<String>,
    pub(super) accept_to_applied_us: Percentiles,
    /// From the first payment received to the last applied, by the service's clocks.
    pub(super) ledger_ms: u64,
    pub(super) customers: u64,
    pub(super) differences: Listed<Difference>,
}

impl Audit {
    /// True when the payments looked up leave no doubt.
    pub(super) fn is_clean(&self) -> bool {
        let Self { lost, unsettled, altered, misordered, differences, .. } = self;
        let listed = [lost, unsettled, altered, misordered];
        listed.iter().map(|listed| listed.count).sum::<u64>() + differences.count == 0
    }

    /// Payments found applied.
    pub(super) fn applied(&self) -> u64 {
        self.by_status.get("applied").copied().unwrap_or_default()
    }
}

/// The books of the audit while it goes on.
#[derive(Debug)]
pub(super) struct Auditor {
    audit: Audit,
    latencies: Histogram<u64>,
    /// Cents found applied, by customer.
    applied_cents: Vec<u64>,
    first_received_us: i64,
    last_processed_us: i64,
    /// The last batch of each customer, and the sequence of its last payment.
    batches: BTreeMap<u32, (u64, i64)>,
}

impl Auditor {
    pub(super) fn new(customers: u32) -> anyhow::Result<Self> {
        Ok(Self {
            audit: Audit { customers: u64::from(customers), ..Audit::default() },
            latencies: record::latencies()?,
            applied_cents: vec![0; customers as usize],
            first_received_us: i64::MAX,
            last_processed_us: i64::MIN,
            batches: BTreeMap::new(),
        })
    }

    /// Compares the place of a payment with that of the customer's payment before
    /// it in the same batch. Payments are entered in the order of their sending.
    pub(super) fn follow(&mut self, batch: u64, content: Content, found: &FoundPayment) {
        let Some(sequence) = found.sequence else { return };
        let last = self.batches.insert(content.customer, (batch, sequence));
        if last.is_some_and(|(before, last)| before == batch && sequence < last) {
            self.audit.misordered.add(|| found.transaction_reference.clone());
        }
    }

    /// Enters one payment: what was known of it, what was sent, and where it is.
    pub(super) fn enter(
        &mut self,
        fate: Fate,
        content: Content,
        found: &FoundPayment,
    ) -> anyhow::Result<()> {
        let reference = || found.transaction_reference.clone();
        let audit = &mut self.audit;
        let was_accepted = fate == Fate::Accepted;
        audit.accepted += u64::from(was_accepted);
        *audit.by_status.entry(found.status.clone()).or_default() += 1;
        match found.status.as_str() {
            "unknown" if was_accepted => audit.lost.add(reference),
            "unknown" => audit.unknown.absent += 1,
            "accepted" => audit.unsettled.add(reference),
            "applied" => {
                audit.unknown.applied += u64::from(!was_accepted);
                self.enter_applied(content, found)?;
            }
            _ => audit.unknown.other += u64::from(!was_accepted),
        }
        Ok(())
    }

    fn enter_applied(&mut self, content: Content, found: &FoundPayment) -> anyhow::Result<()> {
        let customer = plan::customer_id(content.customer);
        if found.customer_id.as_ref().is_some_and(|found| *found != customer)
            || found.transaction_amount.is_some_and(|amount| amount != content.amount())
        {
            self.audit.altered.add(|| found.transaction_reference.clone());
        }
        if let Some(cents) = self.applied_cents.get_mut(content.customer as usize) {
            *cents += u64::from(content.cents);
        }
        if let (Some(received), Some(processed)) = (&found.received_at, &found.processed_at) {
            let (received, processed) = (micros(received)?, micros(processed)?);
            // Clocks of two machines may disagree by more than the payment took.
            let took = u64::try_from(processed - received).unwrap_or_default();
            record::count(&mut self.latencies, Duration::from_micros(took), 1);
            self.first_received_us = self.first_received_us.min(received);
            self.last_processed_us = self.last_processed_us.max(processed);
        }
        Ok(())
    }

    /// Compares what customers had paid before and after, and closes the books.
    pub(super) fn close(
        mut self,
        before: &BTreeMap<String, Decimal>,
        after: &BTreeMap<String, Decimal>,
    ) -> Audit {
        for (index, cents) in (0..).zip(&self.applied_cents) {
            let customer_id = plan::customer_id(index);
            let paid = |at: &BTreeMap<_, _>| at.get(&customer_id).copied().unwrap_or(Decimal::ZERO);
            let expected = Decimal::from_i128_with_scale(i128::from(*cents), 2);
            let actual = paid(after) - paid(before);
            if actual != expected {
                self.audit.differences.add(|| Difference { customer_id, expected, actual });
            }
        }
        self.audit.accept_to_applied_us = Percentiles::of(&self.latencies);
        let span = self.last_processed_us.saturating_sub(self.first_received_us);
        self.audit.ledger_ms = u64::try_from(span / 1000).unwrap_or_default();
        self.audit
    }
}

fn micros(instant: &str) -> anyhow::Result<i64> {
    DateTime::parse_from_rfc3339(instant)
        .map(|instant| instant.timestamp_micros())
        .with_context(|| format!("could not read the time {instant:?}"))
}
