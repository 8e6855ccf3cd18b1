//! What clients see of payments and accounts: JSON shapes, and money as a
//! string with two decimals everywhere.

use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, Type, schema::ObjectBuilder},
};

use crate::{
    domain::{Delivery, PaymentState, two_places},
    ledger::{AccountRow, ConflictRow, PaymentRow},
    operations::Money,
    stream::{Place, Seen},
};

/// Characters that stay as they are in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Money as it is shown: `"10000.00"`.
pub(super) fn money(value: Decimal) -> String {
    two_places(value).to_string()
}

/// Where a payment's own page is.
pub(super) fn payment_path(reference: &str) -> String {
    format!("/api/v1/payments/{}", utf8_percent_encode(reference, SEGMENT))
}

/// Where a customer's own page is.
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
    pub(super) fn new(reference: &str, customer: Option<&str>) -> Self {
        let balance = customer.map(|customer| format!("{}/balance", customer_path(customer)));
        Self { payment: payment_path(reference), balance }
    }
}

/// A payment that is on disk in its partition's stream.
#[derive(Serialize, ToSchema)]
pub(super) struct AcceptedView {
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
    pub(super) fn new(reference: &str, customer: &str, place: Place) -> Self {
        Self {
            transaction_reference: reference.to_owned(),
            status: "accepted",
            partition: place.partition,
            sequence: place.sequence,
            stream_id: place.stream_id.to_string(),
            links: Links::new(reference, Some(customer)),
        }
    }
}

/// What is answered to what was taken, and which of its fields were ignored.
#[derive(Serialize, ToSchema)]
pub(super) struct Taken<T> {
    #[serde(flatten)]
    pub(super) view: T,
    /// Fields that are not known here, and had no effect; the first 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ignored: Vec<String>,
}

/// Where a payment is, for the description.
pub(super) struct StatusView;

impl PartialSchema for StatusView {
    fn schema() -> RefOr<Schema> {
        let states = || PaymentState::ALL.into_iter().filter(|state| state.is_of_a_payment());
        let meanings = states().map(|state| format!("- `{}`: {}", state.as_str(), state.meaning()));
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(states().map(PaymentState::as_str)))
            .description(Some(meanings.collect::<Vec<_>>().join("\n")))
            .into()
    }
}

impl ToSchema for StatusView {}

fn name<S: Serializer>(state: &PaymentState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

/// A payment, from stream to ledger.
#[derive(Clone, Default, Serialize, ToSchema)]
pub(super) struct PaymentView {
    pub(super) transaction_reference: String,
    #[schema(value_type = StatusView)]
    #[serde(serialize_with = "name")]
    pub(super) status: PaymentState,
    /// What the bank said: COMPLETE, PENDING or FAILED.
    pub(super) payment_status: Option<String>,
    /// Why it was rejected or could not be settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    pub(super) customer_id: Option<String>,
    #[schema(value_type = Option<Money>)]
    pub(super) transaction_amount: Option<String>,
    /// Paid of what was outstanding.
    #[schema(value_type = Option<Money>)]
    pub(super) applied_amount: Option<String>,
    /// Paid beyond it, to the credit.
    #[schema(value_type = Option<Money>)]
    pub(super) excess_amount: Option<String>,
    /// What was left to pay afterwards.
    #[schema(value_type = Option<Money>)]
    pub(super) balance_after: Option<String>,
    /// Its place in the customer's statement.
    pub(super) account_version: Option<i64>,
    pub(super) partition: Option<u16>,
    pub(super) sequence: Option<i64>,
    pub(super) stream_id: Option<String>,
    pub(super) transaction_date: Option<DateTime<Utc>>,
    pub(super) received_at: Option<DateTime<Utc>>,
    pub(super) processed_at: Option<DateTime<Utc>>,
    /// How long it has been waiting, while it is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) age_seconds: Option<i64>,
}

impl From<PaymentRow> for PaymentView {
    fn from(row: PaymentRow) -> Self {
        Self {
            transaction_reference: row.transaction_reference,
            status: row.state,
            payment_status: row.payment_status,
            reason: row.reason,
            customer_id: row.customer_id,
            transaction_amount: row.amount.map(money),
            applied_amount: row.applied_amount.map(money),
            excess_amount: row.excess_amount.map(money),
            balance_after: row.balance_after.map(money),
            account_version: row.account_version,
            partition: u16::try_from(row.partition).ok(),
            sequence: row.sequence,
            stream_id: Some(row.stream_id),
            transaction_date: row.transaction_date,
            received_at: row.received_at,
            processed_at: Some(row.processed_at),
            age_seconds: None,
        }
    }
}

impl PaymentView {
    /// A payment that waits in the stream, as of `now`.
    pub(super) fn waiting(seen: Seen, now: DateTime<Utc>) -> Self {
        let Seen { reference, partition, stream_id, delivery } = seen;
        let unread = Self {
            status: PaymentState::Accepted,
            partition: Some(partition),
            stream_id: Some(stream_id.to_string()),
            ..Self::unknown(reference.as_str())
        };
        let Some(Delivery { payment, sequence, received_at, .. }) = delivery else { return unread };
        Self {
            payment_status: Some(payment.status.as_str().to_owned()),
            customer_id: Some(payment.customer.as_str().to_owned()),
            transaction_amount: Some(money(payment.amount.get())),
            sequence: Some(sequence),
            transaction_date: Some(payment.date),
            received_at: Some(received_at),
            age_seconds: Some(now.signed_duration_since(received_at).num_seconds().max(0)),
            ..unread
        }
    }

    /// Whether it could not be settled: it stands in nobody's way.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.status, PaymentState::DeadLettered | PaymentState::Discarded)
    }

    /// A payment that nobody knows.
    pub(super) fn unknown(reference: &str) -> Self {
        Self { transaction_reference: reference.to_owned(), ..Self::default() }
    }
}

/// A payment that came under a used reference with other content.
#[derive(Serialize, ToSchema)]
pub(super) struct ConflictView {
    customer_id: String,
    payment_status: String,
    #[schema(value_type = Money)]
    transaction_amount: String,
    stream_id: String,
    received_at: DateTime<Utc>,
    /// `open` or `resolved`.
    state: String,
}

impl From<ConflictRow> for ConflictView {
    fn from(row: ConflictRow) -> Self {
        Self {
            customer_id: row.customer_id,
            payment_status: row.payment_status,
            transaction_amount: money(row.amount),
            stream_id: row.stream_id,
            received_at: row.received_at,
            state: row.state,
        }
    }
}

/// A customer's account.
#[derive(Serialize, ToSchema)]
pub(super) struct AccountView {
    #[serde(flatten)]
    balance: BalanceView,
    term_weeks: i32,
    payment_count: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<AccountRow> for AccountView {
    fn from(row: AccountRow) -> Self {
        Self {
            term_weeks: row.term_weeks,
            payment_count: row.payment_count,
            created_at: row.created_at,
            updated_at: row.updated_at,
            balance: row.into(),
        }
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
    #[schema(value_type = Money)]
    asset_value: String,
    #[schema(value_type = Money)]
    total_paid: String,
    #[schema(value_type = Money)]
    outstanding_balance: String,
    /// Paid beyond the asset's value.
    #[schema(value_type = Money)]
    credit: String,
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
            asset_value: money(row.asset_value),
            total_paid: money(row.total_paid),
            outstanding_balance: money(row.outstanding_balance),
            credit: money(row.credit),
            version: row.version,
            as_of: row.as_of,
        }
    }
}
