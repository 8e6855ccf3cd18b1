//! The console: what operators see and do, as pages that the gateway serves
//! from the binary. Pages are whole documents that work without script; script
//! only keeps figures live.
//!
//! Handlers are thin: what is shown comes from `operations`, and every text
//! from outside is escaped by the templates. Never loads anything from another
//! site, and has no script or style in its pages.

mod acts;
mod assets;
mod cases;
mod chart;
mod customers;
mod history;
mod list;
mod live;
mod overview;
mod partitions;
mod session;
mod shell;
mod stuck;
mod watch;
mod words;

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    response::{Redirect, Response},
    routing::{get, post},
};

use live::{Console, Live};
use shell::problem_page;

use crate::http::{App, CONSOLE, LIVE, Pages, Problem, SIGN_IN};

/// Nothing from elsewhere, nothing written into a page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// Every page. None of them is part of the API's description.
fn routes() -> Router<Arc<Console>> {
    Router::new()
        .route("/console", get(overview::show))
        .route("/console/", get(async || Redirect::permanent("/console")))
        .route("/console/partitions", get(partitions::show))
        .route("/console/stuck", get(stuck::list))
        .route("/console/payments", get(stuck::payment))
        .route("/console/dead-letters", get(cases::dead_letters))
        .route("/console/dead-letters/{id}", get(cases::dead_letter))
        .route("/console/suspense", get(cases::suspense))
        .route("/console/conflicts", get(cases::conflicts))
        .route("/console/parked", get(cases::parked))
        .route("/console/customers", get(customers::list))
        .route("/console/customers/{customer}", get(customers::show))
        .route("/console/audit", get(cases::audit_log))
        .route("/console/act/{kind}", get(acts::ask).post(acts::act))
        .route(SIGN_IN, get(session::ask).post(session::sign_in))
        .route("/console/sign-out", post(session::sign_out))
        .route(LIVE, get(watch::follow))
        .route("/console/assets/{name}", get(assets::asset))
}

/// The console's part of a gateway, and what keeps its figures live meanwhile.
pub(crate) fn open(app: App) -> (Pages, impl Future<Output = anyhow::Result<()>>) {
    let console = Arc::new(Console { app, live: Live::default() });
    let pages = Pages { routes: routes().with_state(Arc::clone(&console)), finish };
    let looking = async move {
        let looking = console.live.run(&console.app.gateway.operations);
        console.app.stop.run_until_cancelled(looking).await;
        Ok(())
    };
    (pages, looking)
}

/// Makes a page of a problem, and gives every answer the headers that keep a
/// browser careful.
fn finish(
    mut response: Response,
    problem: Option<Problem>,
    uri: &Uri,
    request_id: &str,
) -> Response {
    if let Some(problem) = problem {
        let place = uri.path_and_query().map_or(CONSOLE, |place| place.as_str());
        response = problem.with_page(problem_page(&problem, place, request_id));
    }
    dress(response.headers_mut());
    response
}

/// Gives an answer of the console the headers that keep a browser careful.
fn dress(headers: &mut HeaderMap) {
    const HEADERS: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    headers.extend(HEADERS);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
