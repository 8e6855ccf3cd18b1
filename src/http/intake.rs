//! Reads bodies: bytes become payments, or the precise reasons why not.
//!
//! Fields are taken as they stand in the text, so that a number keeps all its
//! digits and every wrong field is named at once. Unknown fields are ignored;
//! banks add some.

use std::borrow::Cow;

use axum::{
    body::Bytes,
    extract::{
        self, FromRequest, FromRequestParts, Path, Request,
        rejection::{BytesRejection, FailedToBufferBody, QueryRejection},
    },
    http::{HeaderMap, header, request::Parts},
};
use chrono_tz::Tz;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::problem::{Code, FieldError, Problem};
use crate::domain::{Amount, CustomerId, Invalid, Payment, PaymentStatus, Reference, parse_date};

/// The kinds of body that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    /// One JSON document.
    Json,
    /// One JSON document a line.
    JsonLines,
}

/// A body of a kind that we read, within its size limit.
pub(super) struct Body {
    pub(super) media_type: MediaType,
    pub(super) bytes: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media_type = media_type(request.headers()).ok_or_else(|| {
            Problem::new(
                Code::UnsupportedMediaType,
                "send the header Content-Type: application/json",
            )
        })?;
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        Ok(Self { media_type, bytes })
    }
}

/// A JSON object of ours, not a payment.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Body::from_request(request, state).await?;
        Ok(Self(parse(&body.bytes, Code::InvalidRequest)?))
    }
}

/// The name in a path. What is not text names nothing.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        let not_text = |_| Problem::new(Code::RouteNotFound, "the path is not UTF-8");
        path.map(|Path(name)| Self(name)).map_err(not_text)
    }
}

/// The numbers in a path. What is none names nothing.
pub(super) struct Numbers<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Numbers<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        let no_number = |_| Problem::new(Code::CaseNotFound, "the path must have numbers here");
        path.map(|Path(numbers)| Self(numbers)).map_err(no_number)
    }
}

/// What a query asks for.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = extract::Query::from_request_parts(parts, state).await;
        let bad =
            |rejection: QueryRejection| Problem::new(Code::InvalidQuery, rejection.body_text());
        query.map(|extract::Query(query)| Self(query)).map_err(bad)
    }
}

/// A payment's fields as they stand in the text.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    customer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    payment_status: Option<&'a RawValue>,
    #[serde(borrow)]
    transaction_amount: Option<&'a RawValue>,
    #[serde(borrow)]
    transaction_date: Option<&'a RawValue>,
    #[serde(borrow)]
    transaction_reference: Option<&'a RawValue>,
}

/// Reads one payment; dates without an offset are in `zone`.
pub(super) fn payment(json: &[u8], zone: Tz) -> Result<Payment, Problem> {
    let fields: Fields<'_> = parse(json, Code::InvalidPayment)?;
    let mut errors = Vec::new();
    let customer =
        take(&mut errors, "customer_id", fields.customer_id, |raw| CustomerId::parse(string(raw)?));
    let status = take(&mut errors, "payment_status", fields.payment_status, |raw| {
        PaymentStatus::parse(&string(raw)?)
    });
    let amount = take(&mut errors, "transaction_amount", fields.transaction_amount, amount);
    let date = take(&mut errors, "transaction_date", fields.transaction_date, |raw| {
        parse_date(&string(raw)?, zone)
    });
    let reference =
        take(&mut errors, "transaction_reference", fields.transaction_reference, |raw| {
            Reference::parse(string(raw)?)
        });
    match (reference, customer, status, amount, date) {
        (Some(reference), Some(customer), Some(status), Some(amount), Some(date)) => {
            Ok(Payment { reference, customer, status, amount, date })
        }
        _ => Err(Problem::invalid(Code::InvalidPayment, errors)),
    }
}

/// Reads an amount that is a JSON string or a JSON number.
pub(super) fn amount(raw: &RawValue) -> Result<Amount, Invalid> {
    let text = raw.get();
    if text.starts_with('"') {
        return Amount::parse(&string(raw)?);
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        return Err(Invalid::new("wrong_type", "must be a string or a number"));
    }
    Amount::parse(text)
}

/// Reads a field, or notes why not.
pub(super) fn take<T>(
    errors: &mut Vec<FieldError>,
    name: &str,
    raw: Option<&RawValue>,
    read: impl FnOnce(&RawValue) -> Result<T, Invalid>,
) -> Option<T> {
    let missing = Err(Invalid::new("missing", "is missing"));
    match raw.map_or(missing, read) {
        Ok(value) => Some(value),
        Err(invalid) => {
            errors.push(FieldError::new(name, invalid));
            None
        }
    }
}

/// Reads JSON; text that is not JSON differs from JSON that is not ours.
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8], invalid: Code) -> Result<T, Problem> {
    serde_json::from_slice(json).map_err(|error| {
        let code = if error.is_data() { invalid } else { Code::MalformedJson };
        Problem::new(code, error.to_string())
    })
}

pub(super) fn string(raw: &RawValue) -> Result<Cow<'_, str>, Invalid> {
    let text = raw.get();
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str::<String>(text)
            .map(Cow::Owned)
            .map_err(|_| Invalid::new("bad_character", "has an escape that is not a character")),
        None => Err(Invalid::new("wrong_type", "must be a string")),
    }
}

fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match value.split(';').next()?.trim().to_ascii_lowercase().as_str() {
        "application/json" => Some(MediaType::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            Some(MediaType::JsonLines)
        }
        _ => None,
    }
}

fn unreadable(rejection: BytesRejection) -> Problem {
    if let BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) = rejection {
        return Problem::new(
            Code::BodyTooLarge,
            "16 KiB at most; 4 MiB where many are sent at once",
        );
    }
    Problem::new(Code::MalformedJson, "the body could not be read to its end")
}
