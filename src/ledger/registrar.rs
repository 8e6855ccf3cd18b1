//! Opens accounts, and applies the payments held for them, in order and in the same transaction,
//! which also writes the audit log.
//!
//! Locks the fence rows of the partitions it touches, like a batch: a payment is either held
//! before the account exists and found here, or settled afterwards and applied. Never changes an
//! account that exists.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::Row;

use super::{
    Error, Signature, Topology,
    admin::{Change, note},
    lookups,
    pool::Pool,
    rows::{self, Epochs},
    session::{Session, commit},
    settling::{self, Settling},
};
use crate::domain::{Currency, CustomerId, Decision, Delivery, LEDGER_MAX, Outcome, PaymentState};

const CHUNK: usize = 5_000;
const NAMED_MAX: usize = 500;

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
    pub fn new(customer: CustomerId, asset_value: Decimal, term_weeks: i32) -> Option<Self> {
        let fits = asset_value > Decimal::ZERO
            && asset_value <= LEDGER_MAX
            && asset_value.normalize().scale() <= 2
            && (1..=5_200).contains(&term_weeks);
        fits.then_some(Self { customer, asset_value, term_weeks })
    }

    /// The customer of this number among the seeded ones: `GIG00001` has
    /// number 1; each has an asset value of 1,000,000 over 50 weeks.
    pub fn seeded(number: u32) -> Self {
        let customer = CustomerId::parse(format!("GIG{number:05}"));
        let customer = customer.unwrap_or_else(|_| unreachable!("letters and digits"));
        Self { customer, asset_value: Decimal::from(1_000_000), term_weeks: 50 }
    }
}

/// The rows in the audit log about opened accounts. Applied held money is noted for each customer
/// in any case.
#[derive(Clone, Copy)]
enum Noting {
    Each,
    /// One row about so many seeded accounts.
    Seed(u32),
    /// None: the seed is already noted.
    Noted,
}

#[derive(Default)]
struct Released<'a> {
    applied: Vec<&'a str>,
    conflicting: Vec<&'a str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    pub opened: u64,
    pub released: u64,
}

#[derive(Clone)]
pub struct Registrar {
    pub(super) pool: Pool,
    pub(super) topology: Topology,
}

impl Registrar {
    /// The generation of the topology that this process serves.
    pub fn generation(&self) -> i32 {
        self.topology.generation
    }

    pub fn currency(&self) -> Currency {
        self.topology.currency
    }

    /// Opens the account, unless it exists. Repeating it is safe.
    pub async fn open(&self, account: NewAccount, by: &Signature) -> Result<Opening, Error> {
        self.open_chunk(&[account], by, Noting::Each).await
    }

    /// Opens those of the first `count` seeded accounts that do not exist, in chunks; `on_chunk`
    /// gets the size of each. After an error some may be open; repeating it is safe.
    pub async fn seed(
        &self,
        count: u32,
        by: &Signature,
        mut on_chunk: impl FnMut(usize) + Send,
    ) -> Result<Opening, Error> {
        let mut total = Opening::default();
        let numbers: Vec<u32> = (1..=count).collect();
        for chunk in numbers.chunks(CHUNK) {
            let accounts: Vec<NewAccount> = chunk.iter().copied().map(NewAccount::seeded).collect();
            let noting = if total.opened == 0 { Noting::Seed(count) } else { Noting::Noted };
            let opening = self.open_chunk(&accounts, by, noting).await?;
            total.opened += opening.opened;
            total.released += opening.released;
            on_chunk(chunk.len());
        }
        Ok(total)
    }

    /// Repeats when a concurrent transaction used a reference that was held.
    async fn open_chunk(
        &self,
        accounts: &[NewAccount],
        by: &Signature,
        noting: Noting,
    ) -> Result<Opening, Error> {
        settling::insist(|| self.open_once(accounts, by, noting).boxed()).await
    }

    async fn open_once(
        &self,
        accounts: &[NewAccount],
        by: &Signature,
        noting: Noting,
    ) -> Result<Opening, Error> {
        let mut transaction = self.pool.begin().await?;
        let customers: Vec<&CustomerId> = accounts.iter().map(|a| &a.customer).collect();
        let epochs = settling::lock(&mut transaction, &customers, &[], &self.topology).await?;
        let opened = insert_accounts(&mut transaction, accounts, self.currency()).await?;
        let deliveries = held_for(&mut transaction, &opened).await?;
        let released = release(&mut transaction, &deliveries, epochs).await?;
        if let (Noting::Seed(count), false) = (noting, opened.is_empty()) {
            note_seed(&mut transaction, by, count).await?;
        }
        for account in accounts.iter().filter(|a| opened.contains(a.customer.as_str())) {
            let released = released.get(account.customer.as_str());
            if matches!(noting, Noting::Each) || released.is_some() {
                note_opened(&mut transaction, by, account, released).await?;
            }
        }
        commit(transaction).await?;
        let applied = released.values().map(|one| one.applied.len()).sum::<usize>();
        Ok(Opening {
            opened: u64::try_from(opened.len()).unwrap_or(u64::MAX),
            released: u64::try_from(applied).unwrap_or(u64::MAX),
        })
    }
}

async fn note_seed(connection: &mut Session, by: &Signature, count: u32) -> Result<(), Error> {
    let [first, last] = [1, count].map(|number| NewAccount::seeded(number).customer);
    let (first, last) = (first.as_str(), last.as_str());
    let change = Change {
        action: "customers_seeded",
        subject: &format!("{first} to {last}"),
        before: Value::Null,
        after: json!({ "count": count, "first": first, "last": last }),
    };
    note(connection, by, &change).await
}

async fn note_opened(
    connection: &mut Session,
    by: &Signature,
    account: &NewAccount,
    released: Option<&Released<'_>>,
) -> Result<(), Error> {
    let mut after = json!({
        "asset_value": format!("{:.2}", account.asset_value),
        "term_weeks": account.term_weeks,
    });
    if let Some(Released { applied, conflicting }) = released {
        let named = |all: &[&str]| json!(all.iter().take(NAMED_MAX).collect::<Vec<_>>());
        after["released"] = json!(applied.len());
        after["references"] = named(applied);
        after["conflicts"] = named(conflicting);
    }
    let subject = account.customer.as_str();
    let change = Change { action: "account_opened", subject, before: Value::Null, after };
    note(connection, by, &change).await
}

async fn insert_accounts(
    connection: &mut Session,
    accounts: &[NewAccount],
    currency: Currency,
) -> Result<BTreeSet<String>, Error> {
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

/// Payments held for new accounts, in stream order.
async fn held_for(
    connection: &mut Session,
    opened: &BTreeSet<String>,
) -> Result<Vec<Delivery>, Error> {
    let rows = sqlx::query(
        "select transaction_reference, customer_id, amount, partition, sequence, stream_id,
             transaction_date, received_at, payload_digest, 'COMPLETE', trace_id
         from suspense where customer_id = any($1) and state = 'held'
         order by sequence, partition for update",
    )
    .bind(opened.iter().map(String::as_str).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.iter().map(lookups::delivery).collect()
}

/// Applies held payments; returns their references by customer.
async fn release<'a>(
    connection: &mut Session,
    deliveries: &'a [Delivery],
    epochs: Epochs,
) -> Result<BTreeMap<&'a str, Released<'a>>, Error> {
    let mut released: BTreeMap<&str, Released<'_>> = BTreeMap::new();
    if deliveries.is_empty() {
        return Ok(released);
    }
    let settling =
        Settling::open_held(connection, epochs, deliveries, PaymentState::Suspense).await?;
    let (mut applied, mut conflicting) = (Vec::new(), Vec::new());
    for Decision { delivery, outcome } in settling.settle(connection, deliveries).await? {
        let reference = delivery.payment.reference.as_str();
        let theirs = released.entry(delivery.payment.customer.as_str()).or_default();
        // The reference was used for another customer while this one waited.
        if matches!(outcome, Outcome::Conflict | Outcome::Duplicate) {
            theirs.conflicting.push(reference);
            conflicting.push(reference);
        } else {
            theirs.applied.push(reference);
            applied.push(reference);
        }
    }
    resolve(connection, applied, "applied").await?;
    resolve(connection, conflicting, "conflict").await?;
    Ok(released)
}

async fn resolve(
    connection: &mut Session,
    references: Vec<&str>,
    state: &str,
) -> Result<(), Error> {
    let count = references.len();
    let resolved = sqlx::query(
        "update suspense set state = $1, resolved_at = clock_timestamp()
         where transaction_reference = any($2) and state = 'held'",
    )
    .bind(state)
    .bind(references)
    .execute(connection)
    .await?;
    rows::expect_rows(resolved.rows_affected(), count)
}
