//! Reads bodies: bytes become payments, or the precise reasons why not.
//!
//! Fields are taken as they stand in the text, so that a number keeps all its
//! digits and every wrong field is named at once. Unknown fields are ignored,
//! because banks add some, and named in the answer.

use std::borrow::Cow;

use axum::{
    body::Bytes,
    extract::{self, FromRequest, FromRequestParts, Path, Request, rejection::QueryRejection},
    http::{HeaderMap, header, request::Parts},
};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    operator::Principal,
    problem::{Code, FieldError, Problem},
};
use crate::{
    callers::Mapping,
    config::GatewayConfig,
    domain::{
        Amount, Currency, CustomerId, Invalid, Payment, PaymentStatus, Reference, Source,
        check_date, parse_date,
    },
};

/// Ignored fields that an answer names, at most.
const IGNORED_MAX: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    Json,
    JsonLines,
}

/// A body of a kind that we read, within its size limit.
pub(super) struct TypedBody {
    pub(super) media_type: MediaType,
    pub(super) bytes: Bytes,
}

impl TypedBody {
    pub(super) fn json(self) -> Result<Bytes, Problem> {
        match self.media_type {
            MediaType::Json => Ok(self.bytes),
            MediaType::JsonLines => {
                let detail = "send application/json here; only /api/v1/payments/batch takes lines";
                Err(Problem::new(Code::UnsupportedMediaType, detail))
            }
        }
    }
}

pub(super) fn unread() -> Problem {
    Problem::new(Code::MalformedJson, "the body could not be read to its end")
}

impl<S: Send + Sync> FromRequest<S> for TypedBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media_type = media_type(request.headers()).ok_or_else(|| {
            Problem::new(
                Code::UnsupportedMediaType,
                "send the header Content-Type: application/json",
            )
        })?;
        let encoding = request.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            let detail = "send the body as it is, uncompressed and without the header \
                          Content-Encoding";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        let caller = request.extensions().get::<Principal>().cloned().unwrap_or_default();
        let bytes = Bytes::from_request(request, state).await.map_err(|_| unread())?;
        if !caller.sends(&bytes) {
            let detail = "the body is not the one that content-digest tells of";
            return Err(Problem::new(Code::BadSignature, detail));
        }
        Ok(Self { media_type, bytes })
    }
}

pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = TypedBody::from_request(request, state).await?.json()?;
        let value = parse(&body, Code::InvalidRequest)?;
        // A structure could be read from an array too, by the order of its fields.
        match body.trim_ascii_start().first() {
            Some(b'{') => Ok(Self(value)),
            _ => Err(Problem::new(Code::InvalidRequest, "the body must be a JSON object")),
        }
    }
}

/// A text that the stores can keep, where one is given.
pub(super) fn text<'de, D: Deserializer<'de>>(reading: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(reading)?;
    match text.as_deref().is_some_and(|text| text.contains('\0')) {
        true => Err(D::Error::custom("a text must not have the character NUL")),
        false => Ok(text),
    }
}

/// The name in a path. What is not text names nothing.
pub(crate) struct Segment(pub(crate) String);

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

pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if let Some(name) = parts.uri.query().and_then(with_nul) {
            let detail = format!("{name} must not have the character NUL");
            return Err(Problem::new(Code::InvalidQuery, detail));
        }
        let query = extract::Query::from_request_parts(parts, state).await;
        let bad =
            |rejection: QueryRejection| Problem::new(Code::InvalidQuery, rejection.body_text());
        query.map(|extract::Query(query)| Self(query)).map_err(bad)
    }
}

/// The parameter that has a NUL, which no store keeps in a text. An address can
/// have it only as `%00`.
fn with_nul(query: &str) -> Option<&str> {
    let pair = query.split('&').find(|pair| pair.contains("%00"))?;
    Some(pair.split('=').next().unwrap_or_default())
}

pub(super) struct Rules<'a> {
    /// Whose payments they are.
    source: &'a Source,
    /// Where dates without an offset are from.
    zone: Tz,
    currency: Currency,
    /// No payment has happened later than this.
    latest: DateTime<Utc>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(
        source: &'a Source,
        config: &GatewayConfig,
        currency: Currency,
        now: DateTime<Utc>,
    ) -> Self {
        let ahead = TimeDelta::from_std(config.date_ahead_max).unwrap_or(TimeDelta::MAX);
        let latest = now.checked_add_signed(ahead).unwrap_or(DateTime::<Utc>::MAX_UTC);
        Self { source, zone: config.time_zone, currency, latest }
    }
}

/// A field's name, borrowed unless it has an escape.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A JSON object's fields as they stand in its text, and what is wrong with
/// them.
pub(super) struct JsonFields<'a> {
    left: Vec<(Cow<'a, str>, &'a RawValue)>,
    errors: Vec<FieldError>,
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = JsonFields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut left = Vec::with_capacity(8);
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &RawValue>()? {
                    left.push((name, value));
                }
                Ok(JsonFields { left, errors: Vec::new() })
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl JsonFields<'_> {
    /// Reads a field, or notes why not.
    pub(super) fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&RawValue) -> Result<T, Invalid>,
    ) -> Option<T> {
        let raw = self.next(name);
        let twice = raw.is_some() && self.next(name).is_some();
        let value = match raw {
            Some(_) if twice => Err(Invalid::new("given_twice", "is given twice")),
            Some(raw) if raw.get() != "null" => read(raw),
            _ => Err(Invalid::new("missing", "is missing")),
        };
        value.map_err(|invalid| self.errors.push(FieldError::new(name, invalid))).ok()
    }

    /// Refuses a currency that is not the deployment's. None is the deployment's.
    pub(super) fn check_currency(&mut self, ours: Currency) {
        if !self.left.iter().any(|(name, raw)| name == "currency" && raw.get() != "null") {
            self.left.retain(|(name, _)| name != "currency");
            return;
        }
        self.take("currency", |raw| match string(raw)? == ours.as_str() {
            true => Ok(()),
            false => Err(Invalid::new(
                "currency_mismatch",
                "must be the currency of the accounts, or be left out",
            )),
        });
    }

    fn next<'b>(&mut self, name: &str) -> Option<&'b RawValue>
    where
        Self: 'b,
    {
        let place = self.left.iter().position(|(other, _)| other == name)?;
        Some(self.left.remove(place).1)
    }

    /// The names that nobody asked for; or what is wrong.
    pub(super) fn finish(self, code: Code) -> Result<Vec<String>, Problem> {
        if !self.errors.is_empty() {
            return Err(Problem::invalid(code, self.errors));
        }
        Ok(self.left.into_iter().map(|(name, _)| name.into_owned()).take(IGNORED_MAX).collect())
    }
}

/// Reads one payment, and names the fields that were ignored.
pub(super) fn payment(json: &[u8], rules: &Rules<'_>) -> Result<(Payment, Vec<String>), Problem> {
    read(parse(json, Code::InvalidPayment)?, None, rules)
}

/// Reads one payment that is written in the words of its source.
pub(super) fn mapped_payment(
    json: &[u8],
    mapping: &Mapping,
    rules: &Rules<'_>,
) -> Result<Payment, Problem> {
    let document: &RawValue = parse(json, Code::InvalidPayment)?;
    let mut fields = JsonFields { left: Vec::new(), errors: Vec::new() };
    for (name, steps) in &mapping.fields {
        match part_of(document, steps) {
            Ok(part) => fields.left.extend(part.map(|part| (Cow::Borrowed(*name), part))),
            Err(invalid) => {
                return Err(Problem::invalid(
                    Code::InvalidPayment,
                    vec![FieldError::new(name, invalid)],
                ));
            }
        }
    }
    read(fields, Some(mapping), rules).map(|(payment, _)| payment)
}

/// What a JSON Pointer leads to. A name that is given twice leads nowhere.
fn part_of<'a>(document: &'a RawValue, steps: &[String]) -> Result<Option<&'a RawValue>, Invalid> {
    let unread = |_| Invalid::new("bad_character", "is behind a name that cannot be read");
    let mut value = document;
    for step in steps {
        let next = match value.get().as_bytes().first() {
            Some(b'{') => {
                let mut members: JsonFields<'a> =
                    serde_json::from_str(value.get()).map_err(unread)?;
                let next = members.next(step);
                if members.next(step).is_some() {
                    return Err(Invalid::new("given_twice", "is given twice"));
                }
                next
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(unread)?;
                step.parse().ok().and_then(|place: usize| items.get(place).copied())
            }
            _ => None,
        };
        let Some(next) = next else { return Ok(None) };
        value = next;
    }
    Ok(Some(value))
}

fn read(
    mut fields: JsonFields<'_>,
    mapping: Option<&Mapping>,
    rules: &Rules<'_>,
) -> Result<(Payment, Vec<String>), Problem> {
    let customer = fields.take("customer_id", |raw| CustomerId::parse(string(raw)?));
    let status = fields.take("payment_status", |raw| {
        let text = string(raw)?;
        mapping.map_or_else(|| PaymentStatus::parse(&text), |mapping| mapping.status(&text))
    });
    let amount = fields.take("transaction_amount", |raw| match mapping {
        Some(Mapping { amounts_in_minor_units: true, .. }) => minor_amount(raw),
        _ => amount(raw),
    });
    let date = fields.take("transaction_date", |raw| {
        check_date(parse_date(&string(raw)?, rules.zone)?, rules.latest)
    });
    let reference = fields.take("transaction_reference", |raw| {
        let reference = Reference::of(rules.source, string(raw)?)?;
        match reference.is_addressable() {
            true => Ok(reference),
            false => Err(Invalid::new("bad_reference", "must not be . or .., which no path keeps")),
        }
    });
    fields.check_currency(rules.currency);
    let ignored = fields.finish(Code::InvalidPayment)?;
    match (reference, customer, status, amount, date) {
        (Some(reference), Some(customer), Some(status), Some(amount), Some(date)) => {
            Ok((Payment { reference, customer, status, amount, date }, ignored))
        }
        _ => Err(Problem::new(Code::InvalidPayment, "a field is not valid")),
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

/// Reads an amount in hundredths, a whole number.
fn minor_amount(raw: &RawValue) -> Result<Amount, Invalid> {
    let text = raw.get().trim_matches('"');
    let hundredths = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let whole = Invalid::new("not_a_number", "must be a whole number of minor units");
    Amount::checked(Decimal::new(hundredths.ok_or(whole)?, 2))
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
