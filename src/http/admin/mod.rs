//! The operators' part of the API: what is stuck and why, and what mends it.
//! Everything that changes something says who and why, and is noted. Never
//! decides anything: that is for `operations`.

mod acts;
mod log;
mod looks;
mod stats;

use axum::{
    extract::Request,
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    problem::{Code, Problem},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(stats::seed_customers))
        .routes(routes!(stats::stats))
        .routes(routes!(looks::pending))
        .routes(routes!(looks::pending_summary))
        .routes(routes!(looks::life))
        .routes(routes!(acts::release_partition))
        .routes(routes!(looks::doctor))
        .routes(routes!(looks::audit_log))
        .routes(routes!(log::log_level, log::set_log_level))
        .routes(routes!(looks::list_dead_letters))
        .routes(routes!(looks::show_dead_letter))
        .routes(routes!(acts::redrive_dead_letter))
        .routes(routes!(acts::discard_dead_letter))
        .routes(routes!(acts::redrive_dead_letters))
        .routes(routes!(acts::discard_dead_letters))
        .routes(routes!(looks::suspense))
        .routes(routes!(acts::assign))
        .routes(routes!(acts::mark_for_refund))
        .routes(routes!(looks::conflicts))
        .routes(routes!(acts::resolve_conflict))
        .routes(routes!(looks::parked))
        .routes(routes!(acts::release_parked))
        .layer(middleware::from_fn(no_query))
}

/// What changes something is told by its body alone: a filter in the query would
/// be ignored, and more would be changed than was meant.
async fn no_query(request: Request, next: Next) -> Response {
    let looks = request.method() == Method::GET || request.method() == Method::HEAD;
    if !looks && request.uri().query().is_some_and(|query| !query.is_empty()) {
        let detail = "this takes no query: say it in the body; nothing was changed";
        return Problem::new(Code::InvalidQuery, detail).into_response();
    }
    next.run(request).await
}
