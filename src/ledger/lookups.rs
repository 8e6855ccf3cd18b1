//! Reads before a decision: accounts, used references, and deliveries in suspense or parked.
//! Never changes or locks anything; the caller holds the fence rows.

use sqlx::{Row, postgres::PgRow};

use super::{Error, session::Session};
use crate::domain::{
    Account, Amount, CustomerId, Delivery, Digest, Payment, PaymentStatus, Reference, TraceContext,
    TraceId, UsedReference,
};

pub(super) async fn read_accounts(
    connection: &mut Session,
    customers: Vec<&str>,
) -> Result<Vec<Account>, Error> {
    let rows = sqlx::query(
        "select customer_id, asset_value, total_paid, credit, payment_count, version,
             parked_at is not null
         from customer_accounts where customer_id = any($1)",
    )
    .bind(customers)
    .fetch_all(connection)
    .await?;
    let account = |row: PgRow| {
        Ok(Account {
            customer: customer(row.try_get(0)?)?,
            asset_value: row.try_get(1)?,
            total_paid: row.try_get(2)?,
            credit: row.try_get(3)?,
            payment_count: row.try_get(4)?,
            version: row.try_get(5)?,
            parked: row.try_get(6)?,
        })
    };
    rows.into_iter().map(account).collect()
}

/// The used ones among these references.
pub(super) async fn read_known(
    connection: &mut Session,
    references: Vec<&str>,
) -> Result<Vec<((Reference, PaymentStatus), UsedReference)>, Error> {
    let rows = sqlx::query(
        "select transaction_reference, payment_status, payload_digest, partition, sequence
         from used_references where transaction_reference = any($1)",
    )
    .bind(references)
    .fetch_all(connection)
    .await?;
    let known = |row: PgRow| {
        let reference: String = row.try_get(0)?;
        let known = UsedReference {
            digest: digest(row.try_get(2)?)?,
            partition: partition(row.try_get(3)?)?,
            sequence: row.try_get(4)?,
        };
        let reference = Reference::parse(reference).map_err(|_| Error::Corrupt("reference"))?;
        Ok(((reference, status(row.try_get(1)?)?), known))
    };
    rows.into_iter().map(known).collect()
}

/// The reason why changes of these accounts lose every race: a damaged account, or concurrent
/// transactions.
pub(super) async fn damage(connection: &mut Session, customers: Vec<&str>) -> Result<Error, Error> {
    let damaged: Option<(String, i64, i64)> = sqlx::query_as(
        "select a.customer_id, a.version, s.last from customer_accounts a
         cross join lateral (select coalesce(max(account_version), 0) as last
             from processed_transactions p where p.customer_id = a.customer_id) s
         where a.customer_id = any($1) and a.version < s.last order by 1 limit 1",
    )
    .bind(customers)
    .fetch_optional(connection)
    .await?;
    let damaged =
        damaged.map(|(customer, version, last)| Error::Damaged { customer, version, last });
    Ok(damaged.unwrap_or(Error::Raced))
}

/// Whether another settled entry of this partition has the same payment and time of receipt:
/// then this one is a copy. A payment that a client sends again has another time of receipt.
pub(super) async fn is_copy(connection: &mut Session, delivery: &Delivery) -> Result<bool, Error> {
    let is_copy = sqlx::query_scalar(
        "select exists (select from taken_payments
             where transaction_reference = $1 and partition = $2 and stream_id <> $3
                 and payload_digest = $4 and received_at = $5
                 and state not in ('parked', 'was_parked'))",
    )
    .bind(delivery.payment.reference.as_str())
    .bind(i32::from(delivery.partition))
    .bind(delivery.stream_id.to_string())
    .bind(delivery.digest.0.as_slice())
    .bind(delivery.received_at);
    Ok(is_copy.fetch_one(connection).await?)
}

/// One held delivery: reference, customer, amount, partition, sequence, stream
/// id, date, time of receipt, digest, status, trace.
pub(super) fn delivery(row: &PgRow) -> Result<Delivery, Error> {
    let reference: String = row.try_get(0)?;
    let stream_id: String = row.try_get(5)?;
    let amount = Amount::checked(row.try_get(2)?).map_err(|_| Error::Corrupt("amount"))?;
    let payment = Payment {
        reference: Reference::parse(reference).map_err(|_| Error::Corrupt("reference"))?,
        customer: customer(row.try_get(1)?)?,
        status: status(row.try_get(9)?)?,
        amount,
        date: row.try_get(6)?,
    };
    Ok(Delivery {
        partition: partition(row.try_get(3)?)?,
        sequence: row.try_get(4)?,
        stream_id: stream_id.parse().map_err(|_| Error::Corrupt("stream id"))?,
        received_at: row.try_get(7)?,
        digest: digest(row.try_get(8)?)?,
        trace: trace(row.try_get(10)?)?,
        // Kept when it came out of the stream.
        evidence: None,
        payment,
    })
}

/// Whether a payment of this reference waits in the parking.
pub(super) async fn is_parked(
    connection: &mut Session,
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

pub(super) fn customer(text: String) -> Result<CustomerId, Error> {
    CustomerId::parse(text).map_err(|_| Error::Corrupt("customer id"))
}

pub(super) fn status(text: &str) -> Result<PaymentStatus, Error> {
    PaymentStatus::parse(text).map_err(|_| Error::Corrupt("payment status"))
}

/// The ledger keeps the trace id only.
pub(super) fn trace(bytes: Option<&[u8]>) -> Result<Option<TraceContext>, Error> {
    let bytes = bytes.map(<[u8; 16]>::try_from).transpose();
    let trace_id = bytes.map_err(|_| Error::Corrupt("trace id"))?.and_then(TraceId::new);
    Ok(trace_id.map(|trace_id| TraceContext { trace_id, span_id: None, sampled: false }))
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest, Error> {
    Ok(Digest(bytes.try_into().map_err(|_| Error::Corrupt("digest"))?))
}
