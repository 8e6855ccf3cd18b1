//! What `benches/micro.rs` measures of this room, by the functions that handlers call. Never
//! called by the service, which a test holds.

use axum::{
    body::Bytes,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};

use super::{
    batch,
    intake::{self, MediaType, Rules, TypedBody},
    payments,
    views::{AcceptedView, WithIgnored},
};
use crate::{
    config::GatewayConfig,
    domain::{Currency, Payment, Source},
    stream::EntryPosition,
};

/// Reads bodies of one source.
pub struct BodyReader<'a>(Rules<'a>);

impl<'a> BodyReader<'a> {
    pub fn new(source: &'a Source, config: &GatewayConfig, now: DateTime<Utc>) -> Self {
        Self(Rules::new(source, config, Currency::DEFAULT, now))
    }

    pub fn payment(&self, json: &[u8]) -> Option<Payment> {
        intake::payment(json, &self.0).ok().map(|(payment, _)| payment)
    }

    /// The payments of a JSON array, without those that would be refused.
    pub fn batch(&self, json: &Bytes) -> Vec<Payment> {
        let body = TypedBody { media_type: MediaType::Json, bytes: json.clone() };
        let items = batch::split(&body).unwrap_or_default();
        items.into_iter().filter_map(|item| self.payment(item)).collect()
    }
}

/// The answer to a payment that was accepted.
pub fn accepted(payment: &Payment, place: EntryPosition) -> Response {
    let view = WithIgnored { view: AcceptedView::new(payment, place), ignored: Vec::new() };
    payments::mark((StatusCode::ACCEPTED, axum::Json(view)).into_response(), payment, false)
}
