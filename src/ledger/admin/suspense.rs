//! Money that arrived for a customer we do not know: found, given to the right
//! customer, or marked for refund. Never moves money out of the ledger.

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use rust_decimal::Decimal;
use serde_json::json;
use sqlx::{FromRow, PgConnection, QueryBuilder};

use super::{
    Acted, AdminStore, PAGE_MAX, Refusal, Signature,
    audit_log::{Change, by_whom, note},
};
use crate::{
    domain::{CustomerId, Delivery, Outcome, Payment, Reference, two_places},
    ledger::{
        Error, lookups,
        settling::{self, Settling, decided},
    },
};

/// A payment in suspense.
#[derive(Clone, Debug, FromRow)]
pub struct SuspenseRow {
    /// The bank's name for it.
    pub transaction_reference: String,
    /// The customer it was sent for.
    pub customer_id: String,
    pub amount: Decimal,
    /// `held`, `applied`, `conflict` or `refund_marked`.
    pub state: String,
    /// The customer that it was assigned to.
    pub assigned_to: Option<String>,
    /// When the bank says it happened.
    pub transaction_date: DateTime<Utc>,
    /// Since when it is held.
    pub held_at: DateTime<Utc>,
    /// When it was dealt with.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// What came of assigning a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// `applied`, or `conflict` when its reference was used for another payment
    /// while it was held.
    pub outcome: String,
    /// What is left to pay afterwards.
    pub balance_after: Option<Decimal>,
    /// Whether later payments of its customer wait in the parking still.
    pub parked: bool,
}

impl AdminStore {
    /// Payments in suspense, the longest held first, after the one of reference
    /// `after`; those that are held or to be sent back only,
    /// unless `all`. At most
    /// [`super::PAGE_MAX`].
    pub async fn suspense(
        &self,
        all: bool,
        customer: Option<&str>,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<SuspenseRow>, Error> {
        let mut query = QueryBuilder::new(
            "select transaction_reference, customer_id, amount, state, assigned_to,
                 transaction_date, held_at, resolved_at from suspense",
        );
        query.push(if all { " where true" } else { " where state in ('held', 'refund_marked')" });
        if let Some(customer) = customer {
            query.push(" and customer_id = ").push_bind(customer);
        }
        if let Some(after) = after {
            query.push(
                " and (held_at, transaction_reference) > (select held_at, transaction_reference
                     from suspense where transaction_reference = ",
            );
            query.push_bind(after).push(")");
        }
        query.push(" order by held_at, transaction_reference limit ");
        query.push_bind(limit.min(PAGE_MAX));
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }

    /// Applies a held payment to the account of `customer`, whose it is. A
    /// customer that is parked stays so, and the payment does not wait.
    pub async fn assign(
        &self,
        reference: &Reference,
        customer: &CustomerId,
        signature: &Signature,
    ) -> Result<Acted<Assigned>, Error> {
        let attempt = || self.assign_once(reference, customer, signature).boxed();
        match settling::insist_on(&self.pool, customer, attempt).await {
            Err(error) if error.is_of_a_delivery() => Ok(Err(Refusal::Impossible(format!(
                "{} cannot be applied and stays held: {}",
                reference.as_str(),
                error.sentence()
            )))),
            result => result,
        }
    }

    async fn assign_once(
        &self,
        reference: &Reference,
        customer: &CustomerId,
        signature: &Signature,
    ) -> Result<Acted<Assigned>, Error> {
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        // Where it stands and whom it was sent for never change; its state does.
        let Some((sent_for, partition)) = whose(connection, reference).await? else {
            return Ok(Err(missing(reference)));
        };
        let customers = [&sent_for, customer];
        let epochs = settling::lock(connection, &customers, &[partition], &self.topology).await?;
        if let Err(refusal) = lock_held(connection, reference).await? {
            return Ok(Err(refusal));
        }
        let sent = read_held(connection, reference).await?;
        let payment = Payment { customer: customer.clone(), ..sent.payment.clone() };
        let deliveries = [Delivery { payment, ..sent }];
        let mut settling = Settling::open_held(connection, epochs, &deliveries).await?;
        if settling.book.account(customer).is_none() {
            let customer = customer.as_str();
            let text = format!("no customer has the id {customer}: open the account first");
            return Ok(Err(Refusal::Impossible(text)));
        }
        let parked = settling.book.unpark();
        let outcome = decided(&settling.settle(connection, &deliveries).await?)?;
        let (state, assigned_to) = match outcome {
            Outcome::Applied { .. } => ("applied", Some(customer.as_str())),
            // Its reference was used for another payment while it waited.
            Outcome::Conflict | Outcome::Duplicate => ("conflict", None),
            Outcome::Rejected { refusal, .. } => {
                let (customer, code) = (customer.as_str(), refusal.code());
                let text = format!("the account of {customer} refuses it ({code}); it stays held");
                return Ok(Err(Refusal::Impossible(text)));
            }
            Outcome::Recorded { .. }
            | Outcome::Suspense
            | Outcome::Parked
            | Outcome::Redelivered => {
                return Err(Error::Corrupt("payment in suspense"));
            }
        };
        sqlx::query(
            "update suspense set state = $2, assigned_to = $3, resolved_at = clock_timestamp()
             where transaction_reference = $1",
        )
        .bind(reference.as_str())
        .bind(state)
        .bind(assigned_to)
        .execute(&mut *connection)
        .await?;
        let balance_after = outcome.after().map(|after| after.balance);
        let change = Change {
            action: ASSIGNED,
            subject: reference.as_str(),
            before: json!({ "state": "held", "customer_id": sent_for.as_str() }),
            after: json!({
                "state": state, "assigned_to": assigned_to,
                "balance_after": balance_after.map(|balance| two_places(balance).to_string()),
            }),
        };
        note(connection, signature, &change).await?;
        transaction.commit().await?;
        Ok(Ok(Assigned { outcome: state.to_owned(), balance_after, parked }))
    }

    /// Notes that a held payment is to be sent back. It stays in suspense and is
    /// not applied any more, even when its customer's account is opened.
    pub async fn mark_for_refund(
        &self,
        reference: &Reference,
        signature: &Signature,
    ) -> Result<Acted<()>, Error> {
        let mut transaction = self.pool.begin().await?;
        let sent_for = match lock_held(&mut transaction, reference).await? {
            Ok(sent_for) => sent_for,
            Err(refusal) => return Ok(Err(refusal)),
        };
        sqlx::query(
            "update suspense set state = 'refund_marked', resolved_at = clock_timestamp()
             where transaction_reference = $1",
        )
        .bind(reference.as_str())
        .execute(&mut *transaction)
        .await?;
        let change = Change {
            action: REFUND_MARKED,
            subject: reference.as_str(),
            before: json!({ "state": "held", "customer_id": sent_for }),
            after: json!({ "state": "refund_marked" }),
        };
        note(&mut transaction, signature, &change).await?;
        transaction.commit().await?;
        Ok(Ok(()))
    }
}

const ASSIGNED: &str = "suspense_assigned";
const REFUND_MARKED: &str = "suspense_refund_marked";

fn missing(reference: &Reference) -> Refusal {
    Refusal::Missing(format!("no payment {} is in suspense", reference.as_str()))
}

/// Whom the payment was sent for, and in which partition it was taken.
async fn whose(
    connection: &mut PgConnection,
    reference: &Reference,
) -> Result<Option<(CustomerId, u16)>, Error> {
    let row: Option<(String, i32)> = sqlx::query_as(
        "select customer_id, partition from suspense where transaction_reference = $1",
    )
    .bind(reference.as_str())
    .fetch_optional(connection)
    .await?;
    let Some((customer, partition)) = row else { return Ok(None) };
    Ok(Some((lookups::customer(customer)?, lookups::partition(partition)?)))
}

/// Locks a payment that is held, unless somebody has dealt with it; says whom it
/// was sent for.
async fn lock_held(
    connection: &mut PgConnection,
    reference: &Reference,
) -> Result<Acted<String>, Error> {
    let row: Option<(String, String, Option<String>)> = sqlx::query_as(
        "select customer_id, state, assigned_to from suspense
         where transaction_reference = $1 for update",
    )
    .bind(reference.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    let Some((customer, state, assigned_to)) = row else { return Ok(Err(missing(reference))) };
    let (action, what) = match (state.as_str(), &assigned_to) {
        ("held", _) => return Ok(Ok(customer)),
        ("refund_marked", _) => (REFUND_MARKED, "was marked for refund".to_owned()),
        ("applied", Some(other)) => (ASSIGNED, format!("was assigned to {other}")),
        ("applied", None) => {
            let text = format!(
                "{} was applied when the account of {customer} was opened",
                reference.as_str()
            );
            return Ok(Err(Refusal::Settled(text)));
        }
        _ => {
            let text = format!(
                "{} was used for another payment while it was held: see `paystream conflicts list`",
                reference.as_str()
            );
            return Ok(Err(Refusal::Settled(text)));
        }
    };
    let by = by_whom(connection, reference.as_str(), action, &json!({ "state": state })).await?;
    Ok(Err(Refusal::Settled(format!("{} {what} {by}", reference.as_str()))))
}

async fn read_held(
    connection: &mut PgConnection,
    reference: &Reference,
) -> Result<Delivery, Error> {
    let row = sqlx::query(
        "select transaction_reference, customer_id, amount, partition, sequence, stream_id,
             transaction_date, received_at, payload_digest, 'COMPLETE', trace_id
         from suspense where transaction_reference = $1",
    )
    .bind(reference.as_str())
    .fetch_one(connection)
    .await?;
    lookups::delivery(&row)
}
