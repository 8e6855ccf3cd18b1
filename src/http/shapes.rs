//! How values look in bodies, for the description of the API: the same bounds as
//! the domain's own, as JSON schemas. Never reads a value.
#![expect(dead_code, reason = "describes values; intake and the domain read them")]

use std::borrow::Cow;

use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, RefOr, Schema, SchemaFormat, Type,
        schema::{AnyOfBuilder, ObjectBuilder},
    },
};

/// 1 to 64 of `[A-Za-z0-9_-]`.
#[derive(ToSchema)]
#[schema(as = CustomerId, pattern = "^[A-Za-z0-9_-]{1,64}$", min_length = 1, max_length = 64, example = "GIG00001")]
pub(super) struct CustomerIdText(String);

#[derive(ToSchema)]
#[schema(as = Source, pattern = "^[a-z0-9-]{1,32}$", min_length = 1, max_length = 32, example = "bank-a")]
pub(super) struct SourceText(String);

/// 1 to 128 visible ASCII characters, neither `.` nor `..`.
#[derive(ToSchema)]
#[schema(
    as = Reference,
    pattern = r"^(?!\.{1,2}$)[!-~]{1,128}$",
    min_length = 1,
    max_length = 128,
    example = "VPAY25110713542114478761522000"
)]
pub(super) struct ReferenceText(String);

/// COMPLETE moves money; PENDING and FAILED are noted.
#[derive(ToSchema)]
#[schema(as = PaymentStatus, rename_all = "UPPERCASE", example = "COMPLETE")]
pub(super) enum PaymentStatusText {
    Complete,
    Pending,
    Failed,
}

/// The deployment's currency.
#[derive(ToSchema)]
#[schema(as = Currency)]
pub(super) struct CurrencyCode(String);

/// Above 0 and at most 10,000,000,000.00.
pub(super) struct AmountText;

impl PartialSchema for AmountText {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(
            r"^0*([1-9][0-9]{0,9}(\.[0-9]{1,2})?|10000000000(\.0{1,2})?|0\.(0[1-9]|[1-9][0-9]?))$",
        ));
        let number = ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(0.01))
            .maximum(Some(10_000_000_000_u64))
            .multiple_of(Some(0.01))
            .description(Some("Without an exponent"));
        AnyOfBuilder::new()
            .item(text)
            .item(number)
            .description(Some(
                "A plain decimal above 0 with at most two places, as string or number; at most \
                 10000000000.00",
            ))
            .examples([json!("10000")])
            .into()
    }
}

impl ToSchema for AmountText {
    fn name() -> Cow<'static, str> {
        "Amount".into()
    }
}

/// A date without an offset, or RFC 3339.
pub(super) struct TransactionDate;

/// Days that the calendar has; 29 February is left to RFC 3339.
const LOCAL_DATE: &str = "^[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])\
     |(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])) \
     ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$";

impl PartialSchema for TransactionDate {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let rfc3339 = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        AnyOfBuilder::new()
            .item(text().pattern(Some(LOCAL_DATE)))
            .item(rfc3339)
            .description(Some(
                "`YYYY-MM-DD HH:MM:SS` in the configured zone, or RFC 3339; at most a day ahead, \
                 unless configured otherwise",
            ))
            .examples([json!("2025-11-07 14:54:16")])
            .into()
    }
}

impl ToSchema for TransactionDate {}

/// What is looked for; any text without the character NUL.
#[derive(ToSchema)]
#[schema(pattern = r"^[^\u0000]*$")]
pub(super) struct Text(String);

/// Who changes something.
pub(super) struct Actor;

impl PartialSchema for Actor {
    fn schema() -> RefOr<Schema> {
        plain(64, "Who: needed where the token does not stand for an operator", "ada")
    }
}

impl ToSchema for Actor {}

/// Why something is changed.
pub(super) struct Reason;

impl PartialSchema for Reason {
    fn schema() -> RefOr<Schema> {
        plain(500, "Why, for the audit log", "the bank confirmed it, ticket 4711")
    }
}

impl ToSchema for Reason {}

/// A text that is not blank, and that shows what it says.
fn plain(length_max: usize, what: &str, example: &str) -> RefOr<Schema> {
    // As `domain::is_plain` has it.
    const MISLEADING: &str = concat!(
        r"\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff",
        // An escape of these would not be read alike everywhere.
        "\u{e0000}-\u{e007f}"
    );
    let pattern = format!(r"^[^{MISLEADING}]*[^\s{MISLEADING}][^{MISLEADING}]*$");
    let limits = "not blank, without control or invisible characters, or ones that change the direction of writing";
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(length_max))
        .pattern(Some(pattern))
        .description(Some(format!("{what}; {limits}")))
        .examples([json!(example)])
        .into()
}

/// A level, or directives such as `info,paystream=debug`.
#[derive(ToSchema)]
#[schema(
    pattern = "^(paystream[A-Za-z0-9_:-]*=)?([0-5]|off|error|warn|info|debug|trace)(,([A-Za-z0-9_:-]+=)?([0-5]|off|error|warn|info|debug|trace))*$",
    example = "info,paystream=debug"
)]
pub(super) struct LogFilter(String);
