//! Settling of deliveries, whatever their source: a batch of the stream, an opened account,
//! released, redriven or assigned payments. One transaction locks the fence rows of their
//! partitions, reads accounts and references, has the book decide, and writes the decisions.
//! The only caller of the book, and the only place that repeats a transaction after a race.
//! Never parks a payment that an operator settles.

use std::collections::{BTreeSet, HashSet};

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, Row};

use super::{
    Error, Topology, attempts,
    cursors::{Cursors, MONTHS},
    lookups,
    pool::Pool,
    rows::{self, Epochs, Tallies},
    session::Session,
};
use crate::domain::{
    Book, CustomerId, Decision, Delivery, Outcome, PaymentState, Reference, StreamId,
    UsedReference, partition_of, unpanicked,
};

/// Most attempts at a transaction that loses races.
const RACES_MAX: usize = 5;

pub(super) struct Settling {
    pub(super) book: Book,
    pub(super) epochs: Epochs,
    /// Where the partitions stand whose cursors move. Only a batch moves any.
    pub(super) stands: Cursors,
    buried: HashSet<(u16, StreamId)>,
    pub(super) tallies: Tallies,
}

impl Settling {
    /// Reads all that the deliveries may touch; their fence rows are locked.
    pub(super) async fn open(
        connection: &mut Session,
        epochs: Epochs,
        stands: Cursors,
        deliveries: &[Delivery],
    ) -> Result<Self, Error> {
        Self::open_beside(connection, epochs, stands, deliveries, |_, _| false).await
    }

    /// The same, ignoring the uses of references for which `is_none` holds.
    async fn open_beside(
        connection: &mut Session,
        epochs: Epochs,
        stands: Cursors,
        deliveries: &[Delivery],
        is_none: impl Fn(&Reference, &UsedReference) -> bool,
    ) -> Result<Self, Error> {
        let customers: BTreeSet<&str> =
            deliveries.iter().map(|d| d.payment.customer.as_str()).collect();
        let references = deliveries.iter().map(|d| d.payment.reference.as_str()).collect();
        let accounts =
            lookups::read_accounts(&mut *connection, customers.into_iter().collect()).await?;
        let mut known = lookups::read_known(&mut *connection, references).await?;
        known.retain(|((reference, _), known)| !is_none(reference, known));
        // What is behind the cursor comes again; it may be buried by now.
        let again =
            |d: &&Delivery| stands.get(&d.partition).is_some_and(|s| d.sequence <= s.sequence);
        let again: Vec<_> =
            deliveries.iter().filter(again).map(|d| (d.partition, d.stream_id)).collect();
        let buried = match again.is_empty() {
            true => HashSet::new(),
            false => attempts::read_buried(connection, &again).await?,
        };
        let book = Book::new(accounts, known);
        Ok(Self { book, epochs, stands, buried, tallies: Tallies::new() })
    }

    /// The same for deliveries that are held, in suspense or parked, which are no repetitions of
    /// themselves.
    pub(super) async fn open_held(
        connection: &mut Session,
        epochs: Epochs,
        deliveries: &[Delivery],
        held: PaymentState,
    ) -> Result<Self, Error> {
        // A ledger of an earlier release may have a reference elsewhere, too: only the
        // row that holds a delivery is passed over.
        let own: HashSet<(&str, u16, i64)> = deliveries
            .iter()
            .map(|d| (d.payment.reference.as_str(), d.partition, d.sequence))
            .collect();
        let is_own = |reference: &Reference, known: &UsedReference| {
            own.contains(&(reference.as_str(), known.partition, known.sequence))
        };
        let stands = Cursors::new();
        let mut settling =
            Self::open_beside(connection, epochs, stands, deliveries, is_own).await?;
        for delivery in deliveries {
            settling.tallies.entry(delivery.partition).or_default().add(held, -1);
        }
        Ok(settling)
    }

    /// Decides delivery by delivery, in their order. A panic discards the book with the
    /// transaction.
    pub(super) fn decide<'a>(
        &mut self,
        deliveries: &'a [Delivery],
    ) -> Result<Vec<Decision<'a>>, Error> {
        let Self { book, buried, .. } = self;
        let decide = |delivery: &'a Delivery| Decision {
            delivery,
            outcome: match buried.contains(&(delivery.partition, delivery.stream_id)) {
                true => Outcome::Redelivered,
                false => book.decide(delivery),
            },
        };
        unpanicked(|| deliveries.iter().map(decide).collect()).map_err(Error::Panicked)
    }

    pub(super) async fn write(
        &mut self,
        connection: &mut Session,
        decisions: &[Decision<'_>],
    ) -> Result<(), Error> {
        rows::insert_decisions(&mut *connection, decisions, &self.epochs, &mut self.tallies)
            .await?;
        rows::update_accounts(connection, &self.book).await
    }

    /// Settles what the ledger itself has kept: decides, writes and counts.
    pub(super) async fn settle<'a>(
        mut self,
        connection: &mut Session,
        deliveries: &'a [Delivery],
    ) -> Result<Vec<Decision<'a>>, Error> {
        let decisions = self.decide(deliveries)?;
        self.write(connection, &decisions).await?;
        rows::advance(connection, &self.tallies, &Cursors::new()).await?;
        Ok(decisions)
    }
}

pub(super) fn decided(decisions: &[Decision<'_>]) -> Result<Outcome, Error> {
    decisions.first().map(|decision| decision.outcome).ok_or(Error::Corrupt("decision"))
}

/// Locks the fence rows of the partitions of these customers, as a batch does, of those in
/// which payments of theirs wait since before a resize, and of `others`, whatever
/// topology they are of; says under which epoch each stands.
///
/// # Errors
/// [`Error::Resized`] when a customer's partition is not of this generation.
pub(super) async fn lock(
    connection: &mut Session,
    customers: &[&CustomerId],
    others: &[u16],
    topology: &Topology,
) -> Result<Epochs, Error> {
    let home = |customer: &&CustomerId| partition_of(customer, topology.partitions);
    let homes: BTreeSet<u16> = customers.iter().map(home).collect();
    let rows = sqlx::query(AssertSqlSafe(format!(
        "select partition, epoch, generation from partition_owners
         where {MONTHS} and (partition = any($1)
             or partition in
                 (select partition from suspense where customer_id = any($2) and state = 'held')
             or partition in
                 (select partition from parked where customer_id = any($2) and state = 'held'))
         order by partition for update"
    )))
    .bind(homes.iter().chain(others).map(|partition| i32::from(*partition)).collect::<Vec<_>>())
    .bind(customers.iter().map(|customer| customer.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut epochs = Epochs::new();
    for row in &rows {
        let partition = lookups::partition(row.try_get(0)?)?;
        epochs.insert(partition, row.try_get(1)?);
        // Under another topology somebody else settles what these customers pay.
        if homes.contains(&partition) && row.try_get::<i32, _>(2)? != topology.generation {
            return Err(Error::Resized);
        }
    }
    Ok(epochs)
}

/// Counts how often a transaction was begun although another one was faster.
#[derive(Debug, Default)]
pub struct Races(usize);

impl Races {
    /// One more was lost. Whether to begin again.
    pub fn go_on(&mut self) -> bool {
        self.0 += 1;
        self.0 < RACES_MAX
    }
}

/// Repeats a transaction that lost a race.
pub(super) async fn insist<'a, T>(
    attempt: impl Fn() -> BoxFuture<'a, Result<T, Error>>,
) -> Result<T, Error> {
    let mut races = Races::default();
    loop {
        match attempt().await {
            Err(Error::Raced) if races.go_on() => {}
            result => return result,
        }
    }
}

/// The same for one account, with the reason if it lost every race.
pub(super) async fn insist_on<'a, T>(
    pool: &Pool,
    customer: &CustomerId,
    attempt: impl Fn() -> BoxFuture<'a, Result<T, Error>>,
) -> Result<T, Error> {
    match insist(attempt).await {
        Err(Error::Raced) => {
            let customers = vec![customer.as_str()];
            Err(pool.ask(async |session| lookups::damage(session, customers).await).await?)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_that_shows_in_a_decision_is_the_deliverys_own_error() {
        assert_eq!(unpanicked(|| 7).unwrap(), 7);
        let error = unpanicked::<()>(|| panic!("on {}", 3)).map_err(Error::Panicked).unwrap_err();
        assert_eq!(error.sentence(), "settling panicked: on 3");
        assert!(error.is_of_a_delivery() && !error.is_outage());
        assert!(!Error::Raced.is_of_a_delivery());
    }
}
