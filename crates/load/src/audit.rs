//! Did each accepted payment have its effect once? Looks every reference up, and compares
//! what each customer's account grew by with the payments found applied. Judges from the
//! service's answers alone; never repairs anything.

use std::collections::BTreeMap;

use anyhow::Context as _;
use chrono::DateTime;
use hdrhistogram::Histogram;
use rust_decimal::Decimal;
use serde::Serialize;

use super::{
    api::{Customer, Found, FoundStatus, Money},
    plan::{self, Content},
    record::{self, Fate},
    report::Percentiles,
};

/// So many references or customers are named; the rest is counted.
const NAMED_MAX: usize = 20;

/// Some references: how many, and the first of them.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Listed<T> {
    pub(super) count: u64,
    pub(super) first: Vec<T>,
}

impl<T> Listed<T> {
    fn new() -> Self {
        Self { count: 0, first: Vec::new() }
    }

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
    /// Recorded, in suspense, rejected, dead-lettered, parked.
    pub(super) other: u64,
}

/// A customer whose account grew by another amount than its payments found applied.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Difference {
    pub(super) customer_id: String,
    pub(super) expected: Money,
    pub(super) actual: Money,
}

/// The verdict on the payments of one run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Audit {
    /// References looked up: accepted ones, and those of unknown outcome.
    pub(super) accepted: u64,
    pub(super) by_status: BTreeMap<FoundStatus, u64>,
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
        self.by_status.get(&FoundStatus::Applied).copied().unwrap_or_default()
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
            audit: Audit {
                accepted: 0,
                by_status: BTreeMap::new(),
                unknown: UnknownOutcomes::default(),
                lost: Listed::new(),
                unsettled: Listed::new(),
                altered: Listed::new(),
                misordered: Listed::new(),
                accept_to_applied_us: Percentiles::default(),
                ledger_ms: 0,
                customers: u64::from(customers),
                differences: Listed::new(),
            },
            latencies: record::latencies()?,
            applied_cents: vec![0; customers as usize],
            first_received_us: i64::MAX,
            last_processed_us: i64::MIN,
            batches: BTreeMap::new(),
        })
    }

    /// Compares the place of a payment with that of the customer's payment before
    /// it in the same batch. Payments are entered in the order of their sending.
    pub(super) fn follow(&mut self, batch: u64, content: Content, found: &Found) {
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
        found: &Found,
    ) -> anyhow::Result<()> {
        let reference = || found.transaction_reference.clone();
        let audit = &mut self.audit;
        audit.accepted += u64::from(fate == Fate::Accepted);
        *audit.by_status.entry(found.status).or_default() += 1;
        match (found.status, fate) {
            (FoundStatus::Unknown, Fate::Accepted) => audit.lost.add(reference),
            (FoundStatus::Unknown, _) => audit.unknown.absent += 1,
            (FoundStatus::Accepted, _) => audit.unsettled.add(reference),
            (FoundStatus::Applied, Fate::Accepted) => {}
            (FoundStatus::Applied, _) => audit.unknown.applied += 1,
            (_, Fate::Accepted) => {}
            (_, _) => audit.unknown.other += 1,
        }
        if found.status == FoundStatus::Applied {
            self.enter_applied(content, found)?;
        }
        Ok(())
    }

    fn enter_applied(&mut self, content: Content, found: &Found) -> anyhow::Result<()> {
        let customer = plan::customer_id(content.customer);
        if found.customer_id.as_ref().is_some_and(|found| *found != customer)
            || found.transaction_amount.is_some_and(|amount| amount.0 != content.amount())
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
            record::count(&mut self.latencies, std::time::Duration::from_micros(took), 1);
            self.first_received_us = self.first_received_us.min(received);
            self.last_processed_us = self.last_processed_us.max(processed);
        }
        Ok(())
    }

    /// Compares the accounts before and after, and closes the books.
    pub(super) fn close(mut self, before: &Balances, after: &Balances) -> Audit {
        for (index, cents) in (0..).zip(&self.applied_cents) {
            let expected = Decimal::from_i128_with_scale(i128::from(*cents), 2);
            let actual = after.paid(index) - before.paid(index);
            if actual != expected {
                let customer_id = plan::customer_id(index);
                self.audit.differences.add(|| Difference {
                    customer_id,
                    expected: Money(expected),
                    actual: Money(actual),
                });
            }
        }
        self.audit.accept_to_applied_us = Percentiles::of(&self.latencies);
        let span = self.last_processed_us.saturating_sub(self.first_received_us);
        self.audit.ledger_ms = u64::try_from(span / 1000).unwrap_or_default();
        self.audit
    }
}

/// What each customer has paid in all, credit included; missing ones apart.
#[derive(Debug)]
pub(super) struct Balances(Vec<Option<Decimal>>);

impl Balances {
    /// Of the first `customers` customers.
    pub(super) fn of(customers: u32, accounts: &[Customer]) -> Self {
        let mut balances = vec![None; customers as usize];
        for account in accounts {
            let index = plan::customer_index(&account.customer_id);
            if let Some(paid) = index.and_then(|index| balances.get_mut(index as usize)) {
                *paid = Some(account.total_paid.0 + account.credit.0);
            }
        }
        Self(balances)
    }

    pub(super) fn customers(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// How many of the customers do not exist.
    pub(super) fn missing(&self) -> usize {
        self.0.iter().filter(|paid| paid.is_none()).count()
    }

    fn paid(&self, index: u32) -> Decimal {
        self.0.get(index as usize).copied().flatten().unwrap_or_default()
    }
}

fn micros(instant: &str) -> anyhow::Result<i64> {
    DateTime::parse_from_rfc3339(instant)
        .map(|instant| instant.timestamp_micros())
        .with_context(|| format!("could not read the time {instant:?}"))
}
