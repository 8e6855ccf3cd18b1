//! What every request passes before its handler: the token, where a form comes
//! from, the bound on requests under way, and the time limit. Health endpoints
//! pass freely; live figures of the console have a bound of their own.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::HeaderMap,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{
    App,
    access::{self, Surface},
    problem::{Code, Problem},
};

/// Longest wait that `Prefer: wait=N` may ask for.
const WAIT_MAX: Duration = Duration::from_secs(30);

pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let surface = Surface::of(request.uri().path());
    if surface == Surface::Open {
        return next.run(request).await;
    }
    let headers = request.headers();
    let Some(operator) = access::admit(&app.gateway.config, surface, headers) else {
        let detail = "send the header Authorization: Bearer <token>";
        return Problem::new(Code::Unauthorized, detail).into_response();
    };
    if surface.is_console() && !access::is_of_our_pages(request.method(), headers) {
        let detail = "nothing was changed; use the form on the console's own page";
        return Problem::new(Code::CrossOrigin, detail).into_response();
    }
    request.extensions_mut().insert(operator);
    if surface == Surface::Live {
        return next.run(request).await;
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
