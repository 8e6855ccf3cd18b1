//! What headers say of one payment: how long its client waits for the outcome, and
//! whether it was taken before.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderName, Method, request::Parts},
};

pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Longest wait that `Prefer: wait=N` may ask for.
const WAIT_MAX: Duration = Duration::from_secs(30);
const WAITS: &str = "/api/v1/payments";

/// How long the request may wait for an outcome; nothing where none is waited
/// for.
pub(super) fn wait_of(request: &Request) -> Duration {
    let honoured = request.method() == Method::POST && request.uri().path() == WAITS;
    if honoured { wanted_wait(request.headers()) } else { Duration::ZERO }
}

/// How long the client prefers to wait for an outcome, bounded.
pub(super) struct Wait(pub(super) Duration);

impl<S: Send + Sync> FromRequestParts<S> for Wait {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(wanted_wait(&parts.headers)))
    }
}

/// As RFC 7240 has it.
fn wanted_wait(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut waits = preferences
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().strip_prefix("wait="))
        .filter_map(|seconds| seconds.trim_matches('"').parse().ok());
    waits.next().map_or(Duration::ZERO, Duration::from_secs).min(WAIT_MAX)
}
