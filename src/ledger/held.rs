//! Deliveries that wait in the ledger itself, in suspense or parked, and the
//! fences of those who let them go on. Decides nothing.

use std::collections::BTreeSet;

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{Error, lookups, rows::Epochs};
use crate::domain::{Amount, Delivery, Payment, Reference};

/// Locks the fence rows of these partitions, as a batch does, and of those in
/// which payments of the customers wait since before a resize, and of the
/// `others`, whatever topology they are of; says under which epoch each stands.
///
/// # Errors
/// [`Error::Resized`] when one of `partitions` is not of this generation.
pub(super) async fn lock_partitions(
    connection: &mut PgConnection,
    partitions: &BTreeSet<u16>,
    customers: &[&str],
    generation: i32,
    others: &[u16],
) -> Result<Epochs, Error> {
    let rows = sqlx::query(
        "select partition, epoch, generation from partition_owners
         where partition = any($1) or partition = any($3)
             or partition in
                 (select partition from suspense where customer_id = any($2) and state = 'held')
             or partition in
                 (select partition from parked where customer_id = any($2) and state = 'held')
         order by partition for update",
    )
    .bind(partitions.iter().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
    .bind(customers)
    .bind(others.iter().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut epochs = Epochs::new();
    for row in &rows {
        let partition = partition(row.try_get(0)?)?;
        epochs.insert(partition, row.try_get(1)?);
        // Under another topology somebody else settles what these customers pay.
        if partitions.contains(&partition) && row.try_get::<i32, _>(2)? != generation {
            return Err(Error::Resized);
        }
    }
    Ok(epochs)
}

/// One held delivery: reference, customer, amount, partition, sequence, stream
/// id, date, time of receipt, digest, status, trace.
pub(super) fn delivery(row: &PgRow) -> Result<Delivery, Error> {
    let reference: String = row.try_get(0)?;
    let stream_id: String = row.try_get(5)?;
    let amount = Amount::checked(row.try_get(2)?).map_err(|_| Error::Corrupt("amount"))?;
    let payment = Payment {
        reference: Reference::parse(reference).map_err(|_| Error::Corrupt("reference"))?,
        customer: lookups::customer(row.try_get(1)?)?,
        status: lookups::status(row.try_get(9)?)?,
        amount,
        date: row.try_get(6)?,
    };
    Ok(Delivery {
        partition: partition(row.try_get(3)?)?,
        sequence: row.try_get(4)?,
        stream_id: stream_id.parse().map_err(|_| Error::Corrupt("stream id"))?,
        received_at: row.try_get(7)?,
        digest: lookups::digest(row.try_get(8)?)?,
        trace: lookups::trace(row.try_get(10)?)?,
        payment,
    })
}

/// Whether a payment of this reference waits in the parking.
pub(super) async fn is_parked(
    connection: &mut PgConnection,
    reference: &Reference,
) -> Result<bool, Error> {
    let parked = sqlx::query_scalar(
        "select exists(select from parked where transaction_reference = $1 and state = 'held')",
    );
    Ok(parked.bind(reference.as_str()).fetch_one(connection).await?)
}

pub(super) fn partition(number: i32) -> Result<u16, Error> {
    u16::try_from(number).map_err(|_| Error::Corrupt("partition"))
}
