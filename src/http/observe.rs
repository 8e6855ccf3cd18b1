//! What every request is measured by, before anything else looks at it: how
//! long it took, what it was answered with, and which trace it belongs to.
//! Changes nothing but the answer's `traceparent`, and says that nobody may keep it.

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};

use tracing::{Level, debug, enabled};

use super::{
    peer::Peer,
    preferences::{self, REPLAYED},
    problem,
    state::App,
    surface::{Door, Surface},
};
use crate::{
    domain::TraceContext,
    telemetry::{
        self, Exchange, RequestTrace, Timestamp,
        traceparent::{self, TRACEPARENT},
    },
};

const HEADER: HeaderName = HeaderName::from_static(TRACEPARENT);
/// Routes that take one payment.
const TAKING: [&str; 2] = ["/api/v1/payments", "/api/v1/webhooks/{source}"];

pub(super) async fn observe(
    State((app, door)): State<(App, Door)>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Timestamp::now();
    let signals = &app.gateway.signals;
    let method = usual(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let surface = door.surface(request.uri().path());
    let path = enabled!(Level::DEBUG).then(|| request.uri().path().to_owned());
    let request_id = request.headers().get(problem::REQUEST_ID);
    let request_id = request_id.and_then(|id| Some(id.to_str().ok()?.to_owned()));
    let inbound = inbound(request.headers());
    let peer = peer_of(&app, &request);
    let trusted = inbound.is_some() && is_trusted(&app, peer);
    let trace = match surface {
        // Probes and pages that stay open are no work of anybody's.
        Surface::Open | Surface::Live => RequestTrace::default(),
        Surface::Docs
        | Surface::Api
        | Surface::Webhooks
        | Surface::Admin
        | Surface::Console
        | Surface::Doorstep => signals.request(inbound, trusted),
    };
    let waits = !preferences::wait_of(&request).is_zero() || surface == Surface::Live;
    request.extensions_mut().insert(trace);
    peer.and_then(|peer| request.extensions_mut().insert(peer));
    let _active = signals.active(method);
    let answering = async {
        let response = next.run(request).await;
        debug!(method, path, status = response.status().as_u16(), "answered");
        response
    };
    let mut response = telemetry::within(trace, request_id, answering).await;
    if matches!(surface, Surface::Api | Surface::Webhooks | Surface::Admin) {
        // Whatever is between must not keep what it says of people.
        let none = HeaderValue::from_static("no-store");
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(none);
    }
    let status = response.status();
    let route = route.as_ref().map(MatchedPath::as_str);
    if method == "POST" && route.is_some_and(|route| TAKING.contains(&route)) {
        signals.received(outcome(&response), 1);
    }
    let exchange = Exchange { method, route, status: status.as_u16(), started, waits };
    let written = signals.answered(&trace, &exchange).as_ref().and_then(traceparent::write);
    if let Some(Ok(value)) = written.map(HeaderValue::try_from) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

fn inbound(headers: &HeaderMap) -> Option<TraceContext> {
    traceparent::parse(headers.get(HEADER)?.to_str().ok()?)
}

fn peer_of(app: &App, request: &Request) -> Option<Peer> {
    let connected = request.extensions().get::<Peer>()?;
    Some(connected.behind(request.headers(), &app.gateway.config.trusted_proxies))
}

fn is_trusted(app: &App, peer: Option<Peer>) -> bool {
    let trusted = &app.gateway.config.trace_trusted;
    peer.is_some_and(|peer| trusted.iter().any(|network| network.contains(&peer.address)))
}

fn outcome(response: &Response) -> &'static str {
    match response.status() {
        StatusCode::ACCEPTED => "accepted",
        StatusCode::OK if response.headers().contains_key(REPLAYED) => "duplicate",
        StatusCode::OK => "accepted",
        refused => problem::counted_as(refused),
    }
}

/// Methods are told apart only as far as they are usual.
fn usual(method: &Method) -> &'static str {
    const USUAL: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
    USUAL.into_iter().find(|usual| *usual == method.as_str()).unwrap_or("_OTHER")
}
