//! What every request is measured by, before anything else looks at it: how
//! long it took, what it was answered with, and which trace it belongs to.
//! Changes nothing but the answer's `traceparent`, and says that nobody may keep it.

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};

use super::{
    peer::Peer,
    preferences::{self, REPLAYED},
    problem,
    state::App,
    surface::Surface,
};
use crate::{
    domain::TraceContext,
    telemetry::{
        Active, Exchange, RequestTrace, Signals, Timestamp,
        traceparent::{self, TRACEPARENT},
    },
};

const HEADER: HeaderName = HeaderName::from_static(TRACEPARENT);
/// Routes that take one payment.
const TAKING: [&str; 2] = ["/api/v1/payments", "/api/v1/webhooks/{source}"];

/// A request that is being answered, as it is measured.
pub(super) struct Observed<'a> {
    pub(super) trace: RequestTrace,
    signals: &'a Signals,
    surface: Surface,
    started: Timestamp,
    pub(super) method: &'static str,
    route: Option<MatchedPath>,
    is_https: bool,
    waits: bool,
    _active: Active<'a>,
}

impl<'a> Observed<'a> {
    /// Tells the request which trace it belongs to, and who is behind its connection.
    pub(super) fn begin(app: &'a App, surface: Surface, request: &mut Request) -> Self {
        let started = Timestamp::now();
        let signals = &app.gateway.signals;
        let method = usual(request.method());
        let route = request.extensions().get::<MatchedPath>().cloned();
        let inbound = inbound(request.headers());
        let peer = peer_of(app, request);
        let trusted = inbound.is_some() && is_trusted(app, peer);
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
        let is_https = peer.is_some_and(|peer| peer.is_https);
        let waits = !preferences::wait_of(request).is_zero() || surface == Surface::Live;
        request.extensions_mut().insert(trace);
        peer.and_then(|peer| request.extensions_mut().insert(peer));
        let _active = signals.active(method);
        Self { trace, signals, surface, started, method, route, is_https, waits, _active }
    }

    pub(super) fn end(self, response: &mut Response) {
        if matches!(self.surface, Surface::Api | Surface::Webhooks | Surface::Admin) {
            // Whatever is between must not keep what it says of people.
            let none = HeaderValue::from_static("no-store");
            response.headers_mut().entry(header::CACHE_CONTROL).or_insert(none);
        }
        let (method, status) = (self.method, response.status().as_u16());
        let route = self.route.as_ref().map(MatchedPath::as_str);
        if method == "POST" && route.is_some_and(|route| TAKING.contains(&route)) {
            self.signals.received(outcome(response), 1);
        }
        let Self { started, waits, is_https, .. } = self;
        let exchange = Exchange { method, route, is_https, status, started, waits };
        let written =
            self.signals.answered(&self.trace, &exchange).as_ref().and_then(traceparent::write);
        if let Some(Ok(value)) = written.map(HeaderValue::try_from) {
            response.headers_mut().insert(HEADER, value);
        }
    }
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
