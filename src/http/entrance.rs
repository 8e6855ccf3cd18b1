//! The one way in and out: a request gets an id, is measured, and passes the guard; its
//! answer tells the id, and has a document where something is wrong. A handler that panics
//! fails its own request only. Never decides who may come in.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt;
use tracing::{Level, debug, enabled};
use uuid::Uuid;

use super::{
    guard,
    observe::Observed,
    problem::{self, Finish, Problem, REQUEST_ID},
    state::App,
    surface::Door,
};
use crate::telemetry;

/// Longest id that a client may give a request, in bytes.
const REQUEST_ID_MAX: usize = 128;

pub(super) struct Entrance {
    pub(super) app: App,
    pub(super) door: Door,
    /// Completes answers of the console.
    pub(super) finish: Finish,
}

/// One step for all of it: each layer of a stack would cost a request boxes and copies.
pub(super) async fn pass(
    State(entrance): State<Arc<Entrance>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Entrance { app, door, finish } = &*entrance;
    let surface = door.surface(request.uri().path());
    let id = id_of(request.headers());
    let observed = Observed::begin(app, surface, &mut request);
    let page = surface.is_console().then(|| request.uri().clone());
    let path = enabled!(Level::DEBUG).then(|| request.uri().path().to_owned());
    let text = id.to_str().unwrap_or_default();
    let answering = async {
        let answering = guard::guard(app, *door, surface, request, next);
        let answered = AssertUnwindSafe(answering).catch_unwind().await;
        let mut response = answered.unwrap_or_else(problem::panicked);
        let problem = response.extensions_mut().remove::<Problem>();
        let response = match (page, problem) {
            (Some(uri), problem) => finish(response, problem, &uri, text),
            (None, Some(problem)) => problem.document(text),
            (None, None) => response,
        };
        debug!(method = observed.method, path, status = response.status().as_u16(), "answered");
        response
    };
    let answering = telemetry::within(observed.trace, text.to_owned(), answering);
    let mut response = answering.await;
    observed.end(&mut response);
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    response
}

/// The id that the request came with, or gets. What is no text, or long, names nothing in a log.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    let is_fit =
        |id: &&HeaderValue| id.to_str().is_ok_and(|id| (1..=REQUEST_ID_MAX).contains(&id.len()));
    if let Some(given) = headers.get(REQUEST_ID).filter(is_fit) {
        return given.clone();
    }
    let mut text = Uuid::encode_buffer();
    let text = Uuid::now_v7().hyphenated().encode_lower(&mut text);
    // It has hexadecimal digits and hyphens only.
    HeaderValue::from_str(text).unwrap_or(const { HeaderValue::from_static("none") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::payments;

    fn size_of_pass<F>(_: impl Fn(State<Arc<Entrance>>, Request, Next) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_handler<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// It is moved about several times: what few requests need belongs in a box.
    #[test]
    fn the_future_of_a_payment_is_small() {
        assert!(size_of_pass(pass) <= 4_096, "{}", size_of_pass(pass));
        let accept = size_of_handler(payments::accept);
        assert!(accept <= 4_096, "{accept}");
    }
}
