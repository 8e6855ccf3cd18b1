//! What every request passes before its handler: the bearer token, the bound
//! on requests under way, and the time limit. Health endpoints pass freely.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use super::{
    App,
    problem::{Code, Problem},
};

/// Longest wait that `Prefer: wait=N` may ask for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Paths that need no token and are never refused for load.
const OPEN_PATHS: [&str; 3] = ["/livez", "/readyz", "/api/v1/health"];

pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    if !is_allowed(&app, request.headers()) {
        let detail = "send the header Authorization: Bearer <token>";
        return Problem::new(Code::Unauthorized, detail).into_response();
    }
    let Ok(_under_way) = app.requests.try_acquire() else {
        let detail = "nothing was taken; send it again later";
        return Problem::new(Code::GatewayBusy, detail).into_response();
    };
    let limit = app.gateway.config.request_timeout + wanted_wait(request.headers());
    timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let detail = "it is not known whether anything was taken; sending it again is safe";
        Problem::new(Code::RequestTimeout, detail).into_response()
    })
}

/// How long the client prefers to wait for an outcome (RFC 7240), bounded.
pub(super) fn wanted_wait(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut waits = preferences
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().strip_prefix("wait="))
        .filter_map(|seconds| seconds.trim_matches('"').parse().ok());
    waits.next().map_or(Duration::ZERO, Duration::from_secs).min(WAIT_MAX)
}

fn is_allowed(app: &App, headers: &HeaderMap) -> bool {
    let Some(token) = &app.gateway.config.api_token else { return true };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    given.is_some_and(|given| given.as_bytes().ct_eq(token.expose_secret().as_bytes()).into())
}
