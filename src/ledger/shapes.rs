//! How the ledger's values are written for clients and operators: money as a string with
//! two decimals, states by their names. Never rounds.

use std::fmt;

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, RefOr, Schema, SchemaFormat, Type, schema::ObjectBuilder},
};

use crate::domain::{PaymentState, Reference, two_places};

/// Money as it is shown: `"10000.00"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type, ToSchema)]
#[sqlx(transparent)]
#[schema(value_type = String, pattern = r"^-?[0-9]{1,20}\.[0-9]{2}$", example = "10000.00")]
pub struct Money(pub Decimal);

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        two_places(self.0).fmt(f)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The name of a payment, as its source knows it.
#[derive(Serialize, ToSchema)]
pub(super) struct NameView<'a> {
    /// Who sent it.
    #[schema(example = "default")]
    source: &'a str,
    transaction_reference: &'a str,
}

pub(super) fn named<S: Serializer>(name: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let (source, transaction_reference) = Reference::parts(name);
    NameView { source, transaction_reference }.serialize(serializer)
}

/// Where a payment is.
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

pub(super) fn state<S: Serializer>(state: &PaymentState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

/// Payments by state, as the totals of partitions count them.
#[derive(Clone, Debug, sqlx::Type)]
#[sqlx(transparent, no_pg_array)]
pub struct StateCounts(Vec<i64>);

impl StateCounts {
    pub fn of(&self, state: PaymentState) -> i64 {
        let mut counted = PaymentState::counted().zip(&self.0);
        counted.find(|((counted, _), _)| *counted == state).map_or(0, |(_, count)| *count)
    }
}

/// As it is published: one is called by its state, the others by their totals.
fn count_name((state, total): (PaymentState, &'static str)) -> &'static str {
    if state == PaymentState::DeadLettered { state.as_str() } else { total }
}

impl Serialize for StateCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(PaymentState::counted().map(count_name).zip(&self.0))
    }
}

impl PartialSchema for StateCounts {
    fn schema() -> RefOr<Schema> {
        let count = |state: PaymentState| {
            let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
            let count = ObjectBuilder::new().schema_type(Type::Integer).format(Some(format));
            count.description(Some(state.meaning()))
        };
        let add = |object: ObjectBuilder, counted: (PaymentState, &'static str)| {
            let name = count_name(counted);
            object.property(name, count(counted.0)).required(name)
        };
        PaymentState::counted().fold(ObjectBuilder::new(), add).into()
    }
}

impl ToSchema for StateCounts {}
