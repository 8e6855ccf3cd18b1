//! Opens accounts, and applies what waited in suspense for them, in order and
//! in the same transaction.
//!
//! Locks the fence rows of the partitions it touches, like a batch does: a
//! payment is either settled before the account exists and found in suspense
//! here, or settled after it and applied.

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use sqlx::{PgConnection, PgPool, Row};

use super::{
    Error, Topology, held, lookups,
    rows::{self, Cursors, Epochs, Tallies},
};
use crate::domain::{
    Book, Currency, CustomerId, Decision, Delivery, LEDGER_MAX, Outcome, partition_of,
};

/// Accounts opened in one transaction.
const CHUNK: usize = 5_000;
/// How often a chunk is opened because another transaction was faster.
const RACES_MAX: usize = 5;

/// An account to be opened. The fields are checked by [`NewAccount::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAccount {
    customer: CustomerId,
    asset_value: Decimal,
    term_weeks: i32,
}

impl NewAccount {
    /// Nothing when the value is not above zero, has more than two places or
    /// does not fit the ledger, or when the term is not 1 to 5,200 weeks.
    #[must_use]
    pub fn new(customer: CustomerId, asset_value: Decimal, term_weeks: i32) -> Option<Self> {
        let fits = asset_value > Decimal::ZERO
            && asset_value <= LEDGER_MAX
            && asset_value.normalize().scale() <= 2
            && (1..=5_200).contains(&term_weeks);
        fits.then_some(Self { customer, asset_value, term_weeks })
    }

    /// The customer of this number among the seeded ones: `GIG00001` has
    /// number 1; each has an asset value of 1,000,000 over 50 weeks.
    #[must_use]
    pub fn seeded(number: u32) -> Self {
        let customer = CustomerId::parse(format!("GIG{number:05}"));
        let customer = customer.unwrap_or_else(|_| unreachable!("letters and digits"));
        Self { customer, asset_value: Decimal::from(1_000_000), term_weeks: 50 }
    }
}

/// What opening accounts did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Accounts that are new.
    pub opened: u64,
    /// Payments that waited in suspense and have been applied.
    pub released: u64,
}

/// The part of the ledger that opens accounts.
#[derive(Clone)]
pub struct Registrar {
    pool: PgPool,
    topology: Topology,
}

impl Registrar {
    pub(super) fn new(pool: PgPool, topology: Topology) -> Self {
        Self { pool, topology }
    }

    /// The generation of the topology that this process serves.
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.topology.generation
    }

    /// What accounts are kept in.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.topology.currency
    }

    /// Opens those of the accounts that do not exist yet.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; some accounts may then be open, and
    /// opening them again is safe.
    pub async fn open(&self, accounts: &[NewAccount]) -> Result<Opening, Error> {
        let mut total = Opening::default();
        for chunk in accounts.chunks(CHUNK) {
            let opening = self.open_insisting(chunk).await?;
            total.opened += opening.opened;
            total.released += opening.released;
        }
        Ok(total)
    }

    /// Opens again when another transaction used a reference meanwhile that
    /// waited in suspense.
    async fn open_insisting(&self, accounts: &[NewAccount]) -> Result<Opening, Error> {
        for _ in 1..RACES_MAX {
            match self.open_chunk(accounts).await {
                Err(Error::Raced) => {}
                result => return result,
            }
        }
        self.open_chunk(accounts).await
    }

    async fn open_chunk(&self, accounts: &[NewAccount]) -> Result<Opening, Error> {
        let mut transaction = self.pool.begin().await?;
        let partitions: BTreeSet<u16> =
            accounts.iter().map(|a| partition_of(&a.customer, self.topology.partitions)).collect();
        let customers: Vec<&str> = accounts.iter().map(|a| a.customer.as_str()).collect();
        let generation = self.topology.generation;
        let epochs =
            held::lock_partitions(&mut transaction, &partitions, &customers, generation, &[])
                .await?;
        let opened = insert_accounts(&mut transaction, accounts, self.currency()).await?;
        let released = release(&mut transaction, &opened, &epochs).await?;
        transaction.commit().await?;
        Ok(Opening { opened: u64::try_from(opened.len()).unwrap_or(u64::MAX), released })
    }
}

async fn insert_accounts(
    connection: &mut PgConnection,
    accounts: &[NewAccount],
    currency: Currency,
) -> Result<Vec<String>, Error> {
    let rows = sqlx::query(
        "insert into customer_accounts (customer_id, asset_value, term_weeks, currency)
         select *, $4 from unnest($1::text[], $2::numeric[], $3::int[])
         on conflict do nothing returning customer_id",
    )
    .bind(accounts.iter().map(|account| account.customer.as_str()).collect::<Vec<_>>())
    .bind(accounts.iter().map(|account| account.asset_value).collect::<Vec<_>>())
    .bind(accounts.iter().map(|account| account.term_weeks).collect::<Vec<_>>())
    .bind(currency.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Applies what waits in suspense for new accounts, in stream order.
async fn release(
    connection: &mut PgConnection,
    opened: &[String],
    epochs: &Epochs,
) -> Result<u64, Error> {
    let rows = sqlx::query(
        "select transaction_reference, customer_id, amount, partition, sequence, stream_id,
             transaction_date, received_at, payload_digest, 'COMPLETE', trace_id
         from suspense where state = 'held' and customer_id = any($1)
         order by sequence, partition for update",
    )
    .bind(opened)
    .fetch_all(&mut *connection)
    .await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let deliveries: Vec<Delivery> = rows.iter().map(held::delivery).collect::<Result<_, _>>()?;
    let customers = opened.iter().map(String::as_str).collect();
    let mut book = Book::new(lookups::read_accounts(connection, customers).await?, []);
    let used = used_references(connection, &deliveries).await?;
    let mut decisions = Vec::with_capacity(deliveries.len());
    let (mut conflicting, mut tallies) = (Vec::new(), Tallies::new());
    for delivery in &deliveries {
        tallies.entry(delivery.partition).or_default().suspense -= 1;
        // The reference was used for another customer while this one waited.
        if used.contains(delivery.payment.reference.as_str()) {
            conflicting.push(Decision { delivery, outcome: Outcome::Conflict });
        } else {
            let outcome = book.decide(delivery);
            decisions.push(Decision { delivery, outcome });
        }
    }
    resolve(connection, &decisions, "applied").await?;
    resolve(connection, &conflicting, "conflict").await?;
    let released = u64::try_from(decisions.len()).unwrap_or(u64::MAX);
    decisions.append(&mut conflicting);
    rows::insert_decisions(connection, &decisions, epochs, &mut tallies).await?;
    rows::update_accounts(connection, &book).await?;
    rows::advance(connection, &tallies, &Cursors::new()).await?;
    Ok(released)
}

async fn used_references(
    connection: &mut PgConnection,
    deliveries: &[Delivery],
) -> Result<BTreeSet<String>, Error> {
    let rows = sqlx::query(
        "select transaction_reference from processed_transactions
         where payment_status = 'COMPLETE' and transaction_reference = any($1)",
    )
    .bind(deliveries.iter().map(|d| d.payment.reference.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn resolve(
    connection: &mut PgConnection,
    decisions: &[Decision<'_>],
    state: &str,
) -> Result<(), Error> {
    let resolved = sqlx::query(
        "update suspense set state = $1, resolved_at = clock_timestamp()
         where transaction_reference = any($2) and state = 'held'",
    )
    .bind(state)
    .bind(decisions.iter().map(|d| d.delivery.payment.reference.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    rows::expect_rows(resolved.rows_affected(), decisions.len())
}
