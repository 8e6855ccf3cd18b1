//! Deliveries that wait in the ledger itself, in suspense or parked. Decides nothing.

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{Error, lookups};
use crate::domain::{Amount, Delivery, Payment, Reference};

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
