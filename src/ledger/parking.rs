//! Release of deliveries that wait behind a dead letter of their customer, in order and in one
//! transaction. Never parks a delivery: that is decided with the batch.

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use serde_json::json;

use super::{
    Acted, Error, Refusal, Signature, Topology,
    admin::{Change, note},
    lookups,
    pool::Pool,
    session::{Session, commit},
    settling::{self, Settling},
};
use crate::domain::{CustomerId, Delivery, PaymentState};

pub struct Parking {
    pub(super) pool: Pool,
    pub(super) topology: Topology,
}

impl Parking {
    /// Settles the customer's parked payments in their order; later ones are not parked. Returns
    /// their number. Refused while they wait for an open dead letter, unless forced: they would
    /// be settled before it.
    pub async fn release(
        &self,
        customer: &CustomerId,
        force: bool,
        signature: &Signature,
    ) -> Result<Acted<u64>, Error> {
        let attempt = || self.release_once(customer, force, signature).boxed();
        match settling::insist_on(&self.pool, customer, attempt).await {
            Err(damage @ Error::Damaged { .. }) => {
                let name = customer.as_str();
                let text =
                    format!("what is parked of {name} cannot be settled and stays: {damage}");
                Ok(Err(Refusal::Impossible(text)))
            }
            result => result,
        }
    }

    async fn release_once(
        &self,
        customer: &CustomerId,
        force: bool,
        signature: &Signature,
    ) -> Result<Acted<u64>, Error> {
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        // The partition whose batches park for this customer, and those in which
        // its payments were taken: others after the topology was resized.
        let epochs = settling::lock(connection, &[customer], &[], &self.topology).await?;
        let parked_at: Option<DateTime<Utc>> = sqlx::query_scalar(
            "with was as (select parked_at from customer_accounts
                 where customer_id = $1 and parked_at is not null for update)
             update customer_accounts set parked_at = null from was
             where customer_id = $1 returning was.parked_at",
        )
        .bind(customer.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        let Some(parked_at) = parked_at else {
            return Ok(Err(Refusal::Missing(format!("{} is not parked", customer.as_str()))));
        };
        let letters = open_letters(connection, customer).await?;
        if !letters.is_empty() && !force {
            return Ok(Err(behind(customer, &letters)));
        }
        let deliveries = take_held(connection, customer).await?;
        let parked = PaymentState::Parked;
        let settling = Settling::open_held(connection, epochs, &deliveries, parked).await?;
        settling.settle(connection, &deliveries).await?;
        let count = u64::try_from(deliveries.len()).unwrap_or(u64::MAX);
        let change = Change {
            action: "parked_released",
            subject: customer.as_str(),
            before: json!({ "parked_at": parked_at, "payments": count }),
            after: json!({
                "parked_at": null, "payments": count, "before_dead_letters": letters
            }),
        };
        note(connection, signature, &change).await?;
        commit(transaction).await?;
        Ok(Ok(count))
    }
}

async fn open_letters(connection: &mut Session, customer: &CustomerId) -> Result<Vec<i64>, Error> {
    let ids = sqlx::query_scalar(
        "select id from dead_letters where customer_id = $1 and state = 'dead' order by id",
    );
    Ok(ids.bind(customer.as_str()).fetch_all(connection).await?)
}

fn behind(customer: &CustomerId, letters: &[i64]) -> Refusal {
    let ids: Vec<String> = letters.iter().map(i64::to_string).collect();
    Refusal::Impossible(format!(
        "dead letter {} of {} is still open: released now, what waits for it is settled before \
         it. Redrive or discard it first, or force the release",
        ids.join(", "),
        customer.as_str()
    ))
}

async fn take_held(
    connection: &mut Session,
    customer: &CustomerId,
) -> Result<Vec<Delivery>, Error> {
    let rows = sqlx::query(
        "with released as (
             update parked set state = 'released', released_at = clock_timestamp()
             where customer_id = $1 and state = 'held' returning *)
         select transaction_reference, customer_id, amount, partition, sequence, stream_id,
             transaction_date, received_at, payload_digest, payment_status, trace_id
         from released order by sequence",
    )
    .bind(customer.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter().map(lookups::delivery).collect()
}
