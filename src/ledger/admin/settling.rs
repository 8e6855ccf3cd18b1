//! Settles one delivery for an operator, in the operator's transaction and by
//! the same book as a batch. Never decides by itself, and never parks: whoever
//! wants one payment settled now does not want it to wait.

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use sqlx::{PgConnection, PgPool};

use crate::{
    domain::{
        Book, CustomerId, Decision, Delivery, Known, Outcome, PaymentStatus, Reference, unpanicked,
    },
    ledger::{
        Error, held, lookups,
        rows::{self, Cursors, Epochs, Tallies},
    },
};

/// What has the reference of a delivery, by status.
pub(super) type Uses = Vec<((Reference, PaymentStatus), Known)>;

/// What came of a delivery.
pub(super) struct Settled {
    /// What the book decided.
    pub(super) outcome: Outcome,
    /// Whether later payments of the customer wait in the parking.
    pub(super) parked: bool,
}

impl Settled {
    /// What is left to pay, where the delivery reached an account.
    pub(super) fn balance_after(&self) -> Option<Decimal> {
        match self.outcome {
            Outcome::Applied { after, .. } | Outcome::Rejected { after, .. } => Some(after.balance),
            Outcome::Recorded { after } => after.map(|after| after.balance),
            Outcome::Suspense
            | Outcome::Parked
            | Outcome::Conflict
            | Outcome::Duplicate
            | Outcome::Redelivered => None,
        }
    }
}

/// Why a delivery was not settled.
pub(super) enum Failure {
    /// The ledger failed.
    Ledger(Error),
    /// Deciding panicked.
    Panicked(String),
    /// The account is damaged; how, as a sentence.
    Damaged(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ledger(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

impl Failure {
    /// Splits what this very delivery is to blame for from what may pass.
    ///
    /// # Errors
    /// What may pass.
    pub(super) fn of_the_entry(self) -> Result<String, Error> {
        match self {
            Self::Panicked(text) => Ok(format!("deciding panicked: {text}")),
            Self::Damaged(text) => Ok(text),
            Self::Ledger(error @ (Error::Refused(_) | Error::Corrupt(_))) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                Ok(cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
            }
            Self::Ledger(error) => Err(error),
        }
    }
}

/// What came of the last attempt: one that was raced again is told from one on an
/// account that is damaged, which would be raced for ever.
pub(super) async fn at_last<T>(
    pool: &PgPool,
    customer: &CustomerId,
    result: Result<T, Failure>,
) -> Result<T, Failure> {
    match result {
        Err(Failure::Ledger(Error::Raced)) => {
            let damage = lookups::damage(pool, customer).await?;
            Err(damage.map_or(Failure::Ledger(Error::Raced), Failure::Damaged))
        }
        result => result,
    }
}

/// Locks the fence rows of the customers' partitions and of the one in which
/// the delivery was taken.
pub(super) async fn lock(
    connection: &mut PgConnection,
    customers: &[&CustomerId],
    partition: u16,
    topology: &crate::ledger::Topology,
) -> Result<Epochs, Error> {
    let home = |customer: &&CustomerId| crate::domain::partition_of(customer, topology.partitions);
    let homes: BTreeSet<u16> = customers.iter().map(home).collect();
    let customers: Vec<&str> = customers.iter().map(|customer| customer.as_str()).collect();
    held::lock_partitions(connection, &homes, &customers, topology.generation, &[partition]).await
}

/// What the ledger has under the delivery's reference.
pub(super) async fn uses(
    connection: &mut PgConnection,
    delivery: &Delivery,
) -> Result<Uses, Error> {
    lookups::read_known(connection, vec![delivery.payment.reference.as_str()]).await
}

/// Decides about the delivery, knowing these `uses` of its reference, and writes
/// what was decided. `tallies` has what the change takes from the totals.
pub(super) async fn settle(
    connection: &mut PgConnection,
    delivery: &Delivery,
    uses: Uses,
    epochs: &Epochs,
    mut tallies: Tallies,
) -> Result<Settled, Failure> {
    let customer = vec![delivery.payment.customer.as_str()];
    let mut accounts = lookups::read_accounts(&mut *connection, customer).await?;
    let parked = accounts.iter().any(|account| account.parked);
    accounts.iter_mut().for_each(|account| account.parked = false);
    let mut book = Book::new(accounts, uses);
    // The book is dropped with the transaction when it panics.
    let outcome = unpanicked(|| book.decide(delivery)).map_err(Failure::Panicked)?;
    let decisions = [Decision { delivery, outcome }];
    rows::insert_decisions(&mut *connection, &decisions, epochs, &mut tallies).await?;
    rows::update_accounts(&mut *connection, &book).await?;
    rows::advance(connection, &tallies, &Cursors::new()).await?;
    Ok(Settled { outcome, parked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_that_shows_in_a_decision_leaves_its_letter_dead() {
        assert_eq!(unpanicked(|| 7).unwrap(), 7);
        let failure = Failure::Panicked(unpanicked(|| panic!("on {}", 3)).unwrap_err());
        assert_eq!(failure.of_the_entry().unwrap(), "deciding panicked: on 3");
        let passing = Failure::Ledger(Error::Raced).of_the_entry();
        assert!(matches!(passing, Err(Error::Raced)));
    }
}
