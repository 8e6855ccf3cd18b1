//! A customer's account and what one payment does to it.

use rust_decimal::Decimal;

use super::{Amount, CustomerId, LEDGER_MAX, Outcome, RejectionReason, Standing};

/// What was financed for a customer and what has been paid of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub customer: CustomerId,
    /// What was financed; never changes.
    pub asset_value: Decimal,
    /// The sum of all applied parts; at most `asset_value`.
    pub total_paid: Decimal,
    /// The sum of all excess parts: paid beyond the asset's value.
    pub credit: Decimal,
    pub payment_count: i64,
    /// Rows of the statement; rises by one with each.
    pub version: i64,
    /// A payment of it became a dead letter, and what comes after it waits.
    pub parked: bool,
}

impl Account {
    pub fn outstanding(&self) -> Decimal {
        self.asset_value - self.total_paid
    }

    /// Applies money that arrived: first to what is outstanding, the rest to
    /// the credit.
    pub fn apply(&mut self, amount: Amount) -> Outcome {
        let applied = amount.get().min(self.outstanding());
        let excess = amount.get() - applied;
        if self.credit + excess > LEDGER_MAX {
            let refusal = RejectionReason::CreditLimit;
            return Outcome::Rejected { refusal, after: self.next_row() };
        }
        self.total_paid += applied;
        self.credit += excess;
        self.payment_count += 1;
        assert!(self.total_paid <= self.asset_value, "an account is never paid beyond its value");
        Outcome::Applied { applied, excess, after: self.next_row() }
    }

    /// Notes a payment that moves no money.
    pub fn record(&mut self) -> Outcome {
        Outcome::Recorded { after: Some(self.next_row()) }
    }

    fn next_row(&mut self) -> Standing {
        self.version += 1;
        Standing { balance: self.outstanding(), version: self.version }
    }
}
