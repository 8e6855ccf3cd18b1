//! The console: what operators see and do, as pages that the gateway serves
//! from the binary. Pages are whole documents that work without script; script
//! only keeps figures live.
//!
//! Handlers are thin: what is shown comes from `operations`, and every text
//! from outside is escaped by the templates. Never loads anything from another
//! site, and has no script or style in its pages.

mod acts;
mod assets;
mod audit;
mod chart;
mod conflicts;
mod customers;
mod dead_letters;
mod live;
mod overview;
mod parked;
mod partitions;
mod payments;
mod session;
mod shell;
mod stuck;
mod suspense;
mod words;

use askama::Template;
use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use tracing::error;

pub(super) use live::Live;
pub(super) use session::cookie;
pub(super) use shell::problem_page;

use super::{
    App,
    problem::{Code, Problem},
};
use crate::operations;

/// Where live figures come from,
pub(super) const LIVE: &str = "/console/live";
/// where an operator shows a token,
pub(super) const SIGN_IN: &str = "/console/sign-in";
/// and where the files are that pages load.
pub(super) const ASSETS: &str = "/console/assets/";
/// Holds the token of whoever has signed in.
pub(super) const TOKEN_COOKIE: &str = "paystream_console";
/// Rows of a page.
const PAGE: i64 = 50;

/// Nothing from elsewhere, nothing written into a page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// Every page. None of them is part of the API's description.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/console", get(overview::show))
        .route("/console/", get(async || Redirect::permanent("/console")))
        .route("/console/partitions", get(partitions::show))
        .route("/console/stuck", get(stuck::show))
        .route("/console/payments", get(payments::show))
        .route("/console/dead-letters", get(dead_letters::list))
        .route("/console/dead-letters/{id}", get(dead_letters::show))
        .route("/console/suspense", get(suspense::list))
        .route("/console/conflicts", get(conflicts::list))
        .route("/console/parked", get(parked::list))
        .route("/console/customers", get(customers::list))
        .route("/console/customers/{customer}", get(customers::show))
        .route("/console/audit", get(audit::list))
        .route("/console/act/{kind}", get(acts::ask).post(acts::act))
        .route(SIGN_IN, get(session::ask).post(session::sign_in))
        .route("/console/sign-out", post(session::sign_out))
        .route(LIVE, get(live::watch))
        .route("/console/assets/{name}", get(assets::asset))
}

/// Whether a path is of the console.
pub(super) fn has(path: &str) -> bool {
    path == "/console" || path.starts_with("/console/")
}

/// Gives an answer of the console the headers that keep a browser careful.
pub(super) fn dress(headers: &mut HeaderMap) {
    const HEADERS: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    headers.extend(HEADERS);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// A page out of its template.
fn page(template: &impl Template) -> Result<Response, Problem> {
    Ok(Html(write(template)?).into_response())
}

fn write(template: &impl Template) -> Result<String, Problem> {
    template.render().map_err(|error| {
        error!(%error, "a page could not be written");
        Problem::new(Code::Internal, "it has been logged under this request id")
    })
}

/// What it means here that PostgreSQL is away.
const LEDGER_AWAY: &str = "PostgreSQL does not answer, and what this page shows is kept there. \
     Payments are still taken and wait in the streams. Nothing was changed; look again when it is \
     back";

/// The same for what was asked of the ledger through its circuit.
fn asked(problem: Problem) -> Problem {
    match problem.code() == Code::LedgerUnavailable {
        true => Problem::new(Code::LedgerUnavailable, LEDGER_AWAY),
        false => problem,
    }
}

/// What a failure means to whoever looks or acts here. Nothing has changed.
fn trouble(error: operations::Error) -> Problem {
    if !error.is_outage() || matches!(error, operations::Error::Halfway(..)) {
        return error.into();
    }
    let (code, detail) = match &error {
        operations::Error::Ledger(_) | operations::Error::LedgerAway => {
            (Code::LedgerUnavailable, LEDGER_AWAY)
        }
        operations::Error::Stream(_)
        | operations::Error::Place(_)
        | operations::Error::Halfway(..) => (
            Code::StreamUnavailable,
            "Redis does not answer, and what this page shows is kept there. What the ledger has \
             is safe and can be looked at. Nothing was changed; look again when it is back",
        ),
    };
    Problem::new(code, detail)
}

/// A field of a form or a query, unless it is empty.
fn given(field: Option<&String>) -> Option<&str> {
    field.map(|text| text.trim()).filter(|text| !text.is_empty())
}
