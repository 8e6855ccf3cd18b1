//! What clients see of payments and accounts: JSON shapes, and money as a
//! string with two decimals everywhere.

use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    domain::{Delivery, Payment, PaymentState, Reference},
    ledger::{AccountRow, PaymentRow},
    operations::Money,
    stream::{EntryPosition, UnsettledEntry},
};

/// Characters that stay as they are in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Where the source of a payment finds it.
pub(super) fn payment_path(reference: &Reference) -> String {
    format!("/api/v1/payments/{}", utf8_percent_encode(reference.given(), SEGMENT))
}

pub(super) fn customer_path(customer: &str) -> String {
    format!("/api/v1/customers/{customer}")
}

/// Where to look next.
#[derive(Serialize, ToSchema)]
pub(super) struct Links {
    /// What became of the payment.
    #[serde(rename = "self")]
    payment: String,
    /// The customer's balance.
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<String>,
}

impl Links {
    pub(super) fn new(reference: &Reference, customer: Option<&str>) -> Self {
        let balance = customer.map(|customer| format!("{}/balance", customer_path(customer)));
        Self { payment: payment_path(reference), balance }
    }
}

/// A payment that is on disk in its partition's stream.
#[derive(Serialize, ToSchema)]
pub(super) struct AcceptedView {
    /// Who sent it.
    #[schema(example = "default")]
    source: String,
    #[schema(example = "VPAY25110713542114478761522000")]
    transaction_reference: String,
    #[schema(pattern = "^accepted$")]
    status: &'static str,
    partition: u16,
    /// Contiguous number in its partition.
    sequence: i64,
    #[schema(example = "1762523656123-0")]
    stream_id: String,
    links: Links,
}

impl AcceptedView {
    pub(super) fn new(payment: &Payment, place: EntryPosition) -> Self {
        let Payment { reference, customer, .. } = payment;
        Self {
            source: reference.source().to_owned(),
            transaction_reference: reference.given().to_owned(),
            status: "accepted",
            partition: place.partition,
            sequence: place.sequence,
            stream_id: place.stream_id.to_string(),
            links: Links::new(reference, Some(customer.as_str())),
        }
    }
}

/// What is answered to what was taken, and which of its fields were ignored.
#[derive(Serialize, ToSchema)]
pub(super) struct WithIgnored<T> {
    #[serde(flatten)]
    pub(super) view: T,
    /// Fields that are not known here, and had no effect; the first 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ignored: Vec<String>,
}

/// A payment that waits in the stream, as of `now`.
pub(super) fn waiting(seen: UnsettledEntry, now: DateTime<Utc>) -> PaymentRow {
    let UnsettledEntry { reference, partition, stream_id, delivery } = seen;
    let unread = PaymentRow {
        state: PaymentState::Accepted,
        partition: Some(partition.into()),
        stream_id: Some(stream_id.to_string()),
        ..PaymentRow::unknown(&reference)
    };
    let Some(Delivery { payment, sequence, received_at, .. }) = delivery else { return unread };
    PaymentRow {
        payment_status: Some(payment.status.as_str().to_owned()),
        customer_id: Some(payment.customer.as_str().to_owned()),
        amount: Some(Money(payment.amount.get())),
        sequence: Some(sequence),
        transaction_date: Some(payment.date),
        received_at: Some(received_at),
        age_seconds: Some(now.signed_duration_since(received_at).num_seconds().max(0)),
        ..unread
    }
}

/// A customer's balance.
#[derive(Serialize, ToSchema)]
pub(super) struct BalanceView {
    #[schema(example = "GIG00001")]
    customer_id: String,
    /// ISO 4217.
    #[schema(example = "NGN")]
    currency: String,
    asset_value: Money,
    total_paid: Money,
    outstanding_balance: Money,
    /// Paid beyond the asset's value.
    credit: Money,
    /// Rows of the statement that this balance includes.
    version: i64,
    /// When the ledger said so.
    as_of: DateTime<Utc>,
}

impl From<AccountRow> for BalanceView {
    fn from(row: AccountRow) -> Self {
        Self {
            customer_id: row.customer_id,
            currency: row.currency,
            asset_value: row.asset_value,
            total_paid: row.total_paid,
            outstanding_balance: row.outstanding_balance,
            credit: row.credit,
            version: row.version,
            as_of: row.as_of,
        }
    }
}
