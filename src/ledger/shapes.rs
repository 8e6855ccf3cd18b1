//! How the ledger's values are written for clients and operators: money as a string with
//! two decimals, states by their names. Never rounds.

use rust_decimal::Decimal;
use serde::Serializer;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, Type, schema::ObjectBuilder},
};

use crate::domain::{PaymentState, two_places};

/// Money as it is shown: `"10000.00"`.
#[derive(ToSchema)]
#[schema(pattern = r"^-?[0-9]{1,20}\.[0-9]{2}$", example = "10000.00")]
#[expect(dead_code, reason = "describes what `money` writes")]
pub struct Money(String);

pub(super) fn money<S: Serializer>(value: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&two_places(*value))
}

pub(super) fn money_if_any<S: Serializer>(
    value: &Option<Decimal>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => money(value, serializer),
        None => serializer.serialize_none(),
    }
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
