//! Recomputes accounts from their statements, one after the other. Pure: rows
//! in, findings out; keeps one customer at a time.

use rust_decimal::Decimal;

use super::findings::{Check, Findings};
use crate::domain::two_places;

const OF_ACCOUNTS: [Check; 6] = [
    Check::AccountSum,
    Check::AccountCredit,
    Check::AccountCount,
    Check::AccountVersion,
    Check::AccountOverpaid,
    Check::AccountMissing,
];
const OF_ROWS: [Check; 6] = [
    Check::VersionGap,
    Check::BalanceAfter,
    Check::AmountParts,
    Check::ContentChanged,
    Check::OrderBroken,
    Check::PartitionMixed,
];

/// What an account says of itself.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) asset_value: Decimal,
    pub(super) total_paid: Decimal,
    pub(super) credit: Decimal,
    pub(super) payment_count: i64,
    pub(super) version: i64,
}

/// A row of a statement.
#[derive(Clone, Debug)]
pub(super) struct Posted {
    pub(super) version: i64,
    pub(super) applied_outcome: bool,
    /// Whether the stored digest is that of the stored content.
    pub(super) digest_holds: bool,
    /// An operator settled it later: it has no place in the stream's order.
    pub(super) by_hand: bool,
    pub(super) balance_after: Option<Decimal>,
    pub(super) applied: Decimal,
    pub(super) excess: Decimal,
    pub(super) amount: Decimal,
    pub(super) partition: i32,
    pub(super) sequence: i64,
}

/// One customer's statement as far as it has been read.
#[derive(Debug)]
struct Statement {
    customer: String,
    /// Missing when there is no account.
    claim: Option<Claim>,
    applied: Decimal,
    excess: Decimal,
    count: i64,
    version: i64,
    /// What is left after the last row; unknown at first without an account.
    balance: Option<Decimal>,
    last: Option<(i32, i64)>,
    /// Drifts there were before it.
    drift_before: u64,
}

/// Customers that are named whose accounts differ; all drifts are counted.
const DIFFERING_KEPT: usize = 1_000;

/// What accounts came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recomputed {
    /// Accounts,
    pub(super) accounts: u64,
    /// and rows of their statements.
    pub(super) payments: u64,
    /// Customers whose account or statement is not as it must be; the first
    /// 1,000.
    pub(super) differing: Vec<String>,
}

/// Takes accounts, each followed by its statement in the order of versions.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// The first sequences after each resize.
    resizes: Vec<i64>,
    /// Sequences that were given out twice: partition, the one before, and the one
    /// behind.
    twice: Vec<(i32, i64, i64)>,
    current: Option<Statement>,
    recomputed: Recomputed,
}

impl Accounts {
    /// Sequences from each of `resizes` on are of partitions cut anew.
    pub(super) fn new(resizes: Vec<i64>) -> Self {
        Self { resizes, ..Self::default() }
    }

    /// What was given out twice is in no order.
    pub(super) fn with_twice(self, twice: Vec<(i32, i64, i64)>) -> Self {
        Self { twice, ..self }
    }

    /// Takes an account; its statement follows.
    pub(super) fn open(&mut self, customer: &str, claim: Claim, findings: &mut Findings) {
        self.turn_to(customer, Some(claim), findings);
        self.recomputed.accounts += 1;
    }

    /// Takes the next row of a statement.
    pub(super) fn post(&mut self, customer: &str, posted: &Posted, findings: &mut Findings) {
        self.recomputed.payments += 1;
        match &self.current {
            Some(statement) if statement.customer == customer => {}
            _ => self.turn_to(customer, None, findings),
        }
        if let Some(statement) = &mut self.current {
            let was_twice = |(partition, after, resumes_at): &(i32, i64, i64)| {
                *partition == posted.partition
                    && (after + 1..*resumes_at).contains(&posted.sequence)
            };
            let ordered = !posted.by_hand && !self.twice.iter().any(was_twice);
            statement.post(posted, ordered, &self.resizes, findings);
        }
    }

    /// What they came to.
    pub(super) fn conclude(mut self, findings: &mut Findings) -> Recomputed {
        self.finish(findings);
        let Recomputed { accounts, payments, .. } = self.recomputed;
        OF_ACCOUNTS.into_iter().for_each(|check| findings.looked_at(check, accounts));
        OF_ROWS.into_iter().for_each(|check| findings.looked_at(check, payments));
        self.recomputed
    }

    fn turn_to(&mut self, customer: &str, claim: Option<Claim>, findings: &mut Findings) {
        self.finish(findings);
        self.current = Some(Statement {
            customer: customer.to_owned(),
            balance: claim.as_ref().map(|claim| claim.asset_value),
            claim,
            applied: two_places(Decimal::ZERO),
            excess: two_places(Decimal::ZERO),
            count: 0,
            version: 0,
            last: None,
            drift_before: findings.drift_count(),
        });
    }

    fn finish(&mut self, findings: &mut Findings) {
        let Some(statement) = self.current.take() else { return };
        let (customer, before) = (statement.customer.clone(), statement.drift_before);
        statement.conclude(findings);
        let differing = &mut self.recomputed.differing;
        if findings.drift_count() > before && differing.len() < DIFFERING_KEPT {
            differing.push(customer);
        }
    }
}

impl Statement {
    /// Each row is compared with the row before it, so that one wrong row is
    /// one finding and not one for every row after it.
    fn post(&mut self, posted: &Posted, ordered: bool, resizes: &[i64], findings: &mut Findings) {
        let subject = || format!("{} version {}", self.customer, posted.version);
        if posted.version != self.version + 1 {
            let detail = format!("follows version {}", self.version);
            findings.add(Check::VersionGap, subject(), detail);
        }
        let balance = self.balance.map(|balance| balance - posted.applied);
        if posted.balance_after.is_none() || (balance.is_some() && balance != posted.balance_after)
        {
            let detail = format!(
                "balance_after is {}, should be {}",
                shown(posted.balance_after),
                shown(balance)
            );
            findings.add(Check::BalanceAfter, subject(), detail);
        }
        let whole = if posted.applied_outcome { posted.amount } else { Decimal::ZERO };
        if posted.applied + posted.excess != whole
            || posted.applied < Decimal::ZERO
            || posted.excess < Decimal::ZERO
        {
            let detail = format!(
                "applied {} and excess {}, should be {whole} together",
                posted.applied, posted.excess
            );
            findings.add(Check::AmountParts, subject(), detail);
        }
        if !posted.digest_holds {
            let detail = "its amount, status, date, customer or digest was changed";
            findings.add(Check::ContentChanged, subject(), detail);
        }
        if let Some((partition, sequence)) = self.last.filter(|_| ordered) {
            // A resize moves customers, and sequences rise across it.
            let moved =
                resizes.iter().any(|first| (sequence + 1..=posted.sequence).contains(first));
            if partition != posted.partition && !moved {
                let detail =
                    format!("is of partition {}, the row before of {partition}", posted.partition);
                findings.add(Check::PartitionMixed, subject(), detail);
            } else if sequence >= posted.sequence {
                let detail = format!("has sequence {}, the row before {sequence}", posted.sequence);
                findings.add(Check::OrderBroken, subject(), detail);
            }
        }
        self.applied += posted.applied;
        self.excess += posted.excess;
        self.count += i64::from(posted.applied_outcome);
        self.version = posted.version;
        self.balance = posted.balance_after.or(balance);
        if !posted.by_hand {
            self.last = Some((posted.partition, posted.sequence));
        }
    }

    fn conclude(self, findings: &mut Findings) {
        let subject = &self.customer;
        let Some(claim) = self.claim else {
            let detail = format!("has a statement up to version {} and no account", self.version);
            return findings.add(Check::AccountMissing, subject, detail);
        };
        let paid = (claim.total_paid, self.applied);
        findings.expect(Check::AccountSum, subject, paid, "total_paid is");
        findings.expect(Check::AccountCredit, subject, (claim.credit, self.excess), "credit is");
        let count = (claim.payment_count, self.count);
        findings.expect(Check::AccountCount, subject, count, "payment_count is");
        let version = (claim.version, self.version);
        findings.expect(Check::AccountVersion, subject, version, "version is");
        if claim.total_paid > claim.asset_value {
            let detail =
                format!("total_paid is {}, asset_value {}", claim.total_paid, claim.asset_value);
            findings.add(Check::AccountOverpaid, subject, detail);
        }
    }
}

fn shown(balance: Option<Decimal>) -> String {
    balance.map_or_else(|| "missing".to_owned(), |balance| balance.to_string())
}
