//! Dead letters: found, sent on their way again, discarded. Never removes one.

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};

use super::{
    Acted, AdminStore, PAGE_MAX, Refusal, Signature,
    audit_log::{Change, by_whom, note},
};
use crate::{
    domain::{Delivery, Outcome, StreamId, two_places},
    ledger::{
        Error, lookups,
        rows::Cursors,
        settling::{self, Settling, decided},
    },
};

/// Which dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// `dead`, `redriven` or `discarded`; all of them without.
    pub state: Option<String>,
    /// Of this reference,
    pub reference: Option<String>,
    /// of this class of reason,
    pub code: Option<String>,
    /// of this customer,
    pub customer: Option<String>,
    /// dead since then,
    pub since: Option<DateTime<Utc>>,
    /// and before then.
    pub until: Option<DateTime<Utc>>,
}

/// An entry that could not be settled.
#[derive(Clone, Debug, FromRow)]
pub struct DeadLetterRow {
    pub id: i64,
    /// Where it was.
    pub partition: i32,
    pub stream_id: String,
    /// Its sequence, if it could be read so far.
    pub sequence: Option<i64>,
    /// Its reference, as far as it could be read,
    pub transaction_reference: Option<String>,
    /// its customer
    pub customer_id: Option<String>,
    /// and its amount.
    pub amount: Option<Decimal>,
    /// Stable class of the reason: `entry_unreadable`, `settle_failed`,
    /// `worker_died`.
    pub code: String,
    /// Why, as a sentence.
    pub reason: String,
    /// The entry's fields as they were.
    pub entry: Value,
    /// How often it was tried.
    pub attempts: i32,
    /// `dead`, `redriven` or `discarded`.
    pub state: String,
    /// When it was buried.
    pub dead_at: DateTime<Utc>,
    /// When it was redriven or discarded.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// What came of redriving a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// `applied`, `recorded`, `rejected`, `suspense`, `conflict`, `duplicate`, or
    /// `redelivered` when this very entry was in the ledger already.
    pub outcome: String,
    /// What is left to pay afterwards, where it reached an account.
    pub balance_after: Option<Decimal>,
    /// Whether later payments of its customer wait in the parking still.
    pub parked: bool,
    /// Whether this very payment came again meanwhile and waits there.
    pub waits: bool,
}

/// Selects [`DeadLetterRow`]s.
const LETTER: &str = "select id, partition, stream_id, sequence, transaction_reference, \
     customer_id, amount, code, reason, entry, attempts, state, dead_at, resolved_at \
     from dead_letters where true";

impl DeadLetterFilter {
    fn narrow(&self, query: &mut QueryBuilder<Postgres>) {
        let equal = [
            (" and state = ", &self.state),
            (" and transaction_reference = ", &self.reference),
            (" and code = ", &self.code),
            (" and customer_id = ", &self.customer),
        ];
        for (column, value) in equal {
            if let Some(value) = value {
                query.push(column).push_bind(value.clone());
            }
        }
        for (column, value) in [(" and dead_at >= ", self.since), (" and dead_at < ", self.until)] {
            if let Some(value) = value {
                query.push(column).push_bind(value);
            }
        }
    }
}

impl AdminStore {
    /// Dead letters, the latest first, with an id below `before`; at most
    /// [`super::PAGE_MAX`].
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DeadLetterRow>, Error> {
        let mut query = QueryBuilder::new(LETTER);
        filter.narrow(&mut query);
        if let Some(before) = before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(limit.min(PAGE_MAX));
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }

    /// Ids of dead letters in the order in which they were buried, which is the
    /// order in which each customer sent them; at most `limit`.
    pub async fn dead_letter_ids(
        &self,
        filter: &DeadLetterFilter,
        limit: i64,
    ) -> Result<Vec<i64>, Error> {
        let mut query = QueryBuilder::new("select id from dead_letters where true");
        filter.narrow(&mut query);
        query.push(" order by id limit ").push_bind(limit);
        Ok(query.build_query_scalar().fetch_all(&self.pool).await?)
    }

    /// How many there are.
    pub async fn dead_letter_count(&self, filter: &DeadLetterFilter) -> Result<i64, Error> {
        let mut query = QueryBuilder::new("select count(*) from dead_letters where true");
        filter.narrow(&mut query);
        Ok(query.build_query_scalar().fetch_one(&self.pool).await?)
    }

    /// One of them.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetterRow>, Error> {
        let mut query = QueryBuilder::new(LETTER);
        query.push(" and id = ").push_bind(id);
        Ok(query.build_query_as().fetch_optional(&self.pool).await?)
    }

    /// Why a dead letter cannot be dealt with any more; nothing while it can.
    pub async fn dead_letter_refusal(&self, id: i64) -> Result<Option<Refusal>, Error> {
        let mut transaction = self.pool.begin().await?;
        let letter = lock_letter(&mut transaction, id).await?;
        transaction.rollback().await?;
        Ok(letter.err())
    }

    /// Settles a dead letter now, read as `delivery`, in one transaction that
    /// also marks it. What cannot be settled stays dead. With `dry_run`, says
    /// what would come of it and changes nothing.
    ///
    /// A customer that is parked stays so; its dead letter is settled all the
    /// same, because what is parked waits for it.
    pub async fn redrive(
        &self,
        id: i64,
        delivery: &Delivery,
        signature: &Signature,
        dry_run: bool,
    ) -> Result<Acted<Redriven>, Error> {
        let attempt = || self.redrive_once(id, delivery, signature, dry_run).boxed();
        match settling::insist_on(&self.pool, &delivery.payment.customer, attempt).await {
            Err(error) if error.is_of_a_delivery() => Ok(Err(Refusal::Impossible(format!(
                "dead letter {id} still cannot be settled and stays dead: {}",
                error.sentence()
            )))),
            result => result,
        }
    }

    async fn redrive_once(
        &self,
        id: i64,
        delivery: &Delivery,
        signature: &Signature,
        dry_run: bool,
    ) -> Result<Acted<Redriven>, Error> {
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        let customer = &delivery.payment.customer;
        let epochs =
            settling::lock(connection, &[customer], &[delivery.partition], &self.topology).await?;
        let letter = match lock_letter(connection, id).await? {
            Ok(letter) => letter,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !letter.holds(delivery) {
            let text = format!("dead letter {id} is another entry than the one that was read");
            return Ok(Err(Refusal::Impossible(text)));
        }
        let trace = delivery.trace.or(lookups::trace(letter.trace_id.as_deref())?);
        let deliveries = [Delivery { trace, ..delivery.clone() }];
        let stands = Cursors::new();
        let mut settling = Settling::open(connection, epochs, stands, &deliveries).await?;
        let parked = settling.book.unpark();
        let outcome = decided(&settling.settle(connection, &deliveries).await?)?;
        let waits = outcome == Outcome::Duplicate
            && lookups::is_parked(connection, &delivery.payment.reference).await?;
        let balance_after = outcome.after().map(|after| after.balance);
        let redriven =
            Redriven { waits, outcome: outcome.as_str().to_owned(), balance_after, parked };
        // Where it stood is known now, if it could not be read before.
        sqlx::query(
            "update dead_letters set state = 'redriven', resolved_at = clock_timestamp(),
                 sequence = coalesce(sequence, $2),
                 transaction_reference = coalesce(transaction_reference, $3),
                 customer_id = coalesce(customer_id, $4), amount = coalesce(amount, $5)
             where id = $1",
        )
        .bind(id)
        .bind(delivery.sequence)
        .bind(delivery.payment.reference.as_str())
        .bind(customer.as_str())
        .bind(delivery.payment.amount.get())
        .execute(&mut *connection)
        .await?;
        let balance = redriven.balance_after.map(|balance| two_places(balance).to_string());
        let change = Change {
            action: REDRIVEN,
            subject: &letter.subject(id),
            before: json!({ "dead_letter": id, "state": "dead" }),
            after: json!({
                "dead_letter": id, "state": "redriven", "outcome": redriven.outcome,
                "balance_after": balance,
            }),
        };
        note(connection, signature, &change).await?;
        match dry_run {
            true => transaction.rollback().await?,
            false => transaction.commit().await?,
        }
        Ok(Ok(redriven))
    }

    /// Notes that a dead letter is not to be settled.
    pub async fn discard(&self, id: i64, signature: &Signature) -> Result<Acted<()>, Error> {
        let mut transaction = self.pool.begin().await?;
        let letter = match lock_letter(&mut transaction, id).await? {
            Ok(letter) => letter,
            Err(refusal) => return Ok(Err(refusal)),
        };
        sqlx::query(
            "update dead_letters set state = 'discarded', resolved_at = clock_timestamp()
             where id = $1",
        )
        .bind(id)
        .execute(&mut *transaction)
        .await?;
        let change = Change {
            action: DISCARDED,
            subject: &letter.subject(id),
            before: json!({ "dead_letter": id, "state": "dead" }),
            after: json!({ "dead_letter": id, "state": "discarded" }),
        };
        note(&mut transaction, signature, &change).await?;
        transaction.commit().await?;
        Ok(Ok(()))
    }
}

const REDRIVEN: &str = "dead_letter_redriven";
const DISCARDED: &str = "dead_letter_discarded";

/// A dead letter that nobody else can change meanwhile.
#[derive(FromRow)]
struct Locked {
    partition: i32,
    stream_id: String,
    transaction_reference: Option<String>,
    state: String,
    trace_id: Option<Vec<u8>>,
}

impl Locked {
    /// By what the log of changes knows it.
    fn subject(&self, id: i64) -> String {
        self.transaction_reference.clone().unwrap_or_else(|| format!("dead letter {id}"))
    }

    fn holds(&self, delivery: &Delivery) -> bool {
        let id = self.stream_id.parse::<StreamId>().ok();
        self.partition == i32::from(delivery.partition) && id == Some(delivery.stream_id)
    }
}

/// Locks a dead letter, unless somebody has dealt with it.
async fn lock_letter(connection: &mut PgConnection, id: i64) -> Result<Acted<Locked>, Error> {
    let letter: Option<Locked> = sqlx::query_as(
        "select partition, stream_id, transaction_reference, state, trace_id from dead_letters
         where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(letter) = letter else {
        return Ok(Err(Refusal::Missing(format!("there is no dead letter {id}"))));
    };
    let action = match letter.state.as_str() {
        "dead" => return Ok(Ok(letter)),
        "redriven" => REDRIVEN,
        _ => DISCARDED,
    };
    let by =
        by_whom(connection, &letter.subject(id), action, &json!({ "dead_letter": id })).await?;
    let text = format!("dead letter {id} was {} {by}", letter.state);
    Ok(Err(Refusal::Settled(text)))
}
