//! Held money of unknown customers: assigned to the right customer, or marked for
//! refund. Never moves money out of the ledger.

use futures_util::FutureExt;
use serde_json::json;

use super::{
    Acted, AdminStore, Refusal, SettledCase, Signature,
    audit_log::{Change, by_whom, note},
};
use crate::{
    domain::{CustomerId, Delivery, Outcome, Payment, PaymentState, Reference, two_places},
    ledger::{
        Error, lookups,
        session::{Session, commit},
        settling::{self, Settling, decided},
    },
};

impl AdminStore {
    /// Applies a held payment to the account of `customer`, whose it is. A
    /// customer that is parked stays so, and the payment does not wait.
    pub async fn assign(
        &self,
        reference: &Reference,
        customer: &CustomerId,
        signature: &Signature,
    ) -> Result<Acted<SettledCase>, Error> {
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
    ) -> Result<Acted<SettledCase>, Error> {
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
        let mut settling =
            Settling::open_held(connection, epochs, &deliveries, PaymentState::Suspense).await?;
        if settling.book.account(customer).is_none() {
            let customer = customer.as_str();
            let text = format!("no customer has the id {customer}: open the account first");
            return Ok(Err(Refusal::Impossible(text)));
        }
        let parked = settling.book.unpark();
        let outcome = decided(&settling.settle(connection, &deliveries).await?)?;
        if let Outcome::Rejected { reason, .. } = outcome {
            let (customer, code) = (customer.as_str(), reason.code());
            let text = format!("the account of {customer} refuses it ({code}); it stays held");
            return Ok(Err(Refusal::Impossible(text)));
        }
        let (state, assigned_to) = if matches!(outcome, Outcome::Applied { .. }) {
            ("applied", Some(customer.as_str()))
        } else if matches!(outcome, Outcome::Conflict | Outcome::Duplicate) {
            // Its reference was used for another payment while it waited.
            ("conflict", None)
        } else {
            return Err(Error::Corrupt("payment in suspense"));
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
        commit(transaction).await?;
        let outcome = state.to_owned();
        Ok(Ok(SettledCase { outcome, balance_after, parked, waits: false }))
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
        commit(transaction).await?;
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
    connection: &mut Session,
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
    connection: &mut Session,
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

async fn read_held(connection: &mut Session, reference: &Reference) -> Result<Delivery, Error> {
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
