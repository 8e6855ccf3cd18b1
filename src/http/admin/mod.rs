//! The operators' part of the API: what is stuck and why, and what mends it.
//! Everything that changes something says who and why, and is noted. Never
//! decides anything: that is for `operations`.

mod cases;
mod dead_letters;
mod log;
mod stats;
mod stuck;

use axum::{
    Json,
    extract::Request,
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    operator::Operator,
    problem::{Code, Problem},
    shapes,
    state::App,
};
use crate::operations::Act;

/// The operators' routes.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(stats::seed_customers))
        .routes(routes!(stats::stats))
        // What is stuck.
        .routes(routes!(stuck::pending))
        .routes(routes!(stuck::pending_summary))
        .routes(routes!(stuck::life))
        .routes(routes!(stuck::release_partition))
        .routes(routes!(stuck::doctor))
        .routes(routes!(stuck::audit_log))
        .routes(routes!(log::log_level, log::set_log_level))
        // What needs somebody.
        .routes(routes!(dead_letters::list_dead_letters))
        .routes(routes!(dead_letters::show_dead_letter))
        .routes(routes!(dead_letters::redrive_dead_letter))
        .routes(routes!(dead_letters::discard_dead_letter))
        .routes(routes!(dead_letters::redrive_dead_letters))
        .routes(routes!(dead_letters::discard_dead_letters))
        .routes(routes!(cases::suspense))
        .routes(routes!(cases::assign))
        .routes(routes!(cases::mark_for_refund))
        .routes(routes!(cases::conflicts))
        .routes(routes!(cases::resolve_conflict))
        .routes(routes!(cases::parked))
        .routes(routes!(cases::release_parked))
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

/// Who releases something, why, and whether by force.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForcedBody {
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    reason: String,
    /// A partition: end its owner's epoch at once; what the owner has under way is
    /// refused by the ledger. Parked payments: settle them though a dead letter that
    /// they wait for is open, before it.
    #[serde(default)]
    force: bool,
}

/// A change was made.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what an answer has")]
pub(super) struct DoneView {
    /// What was done, as a sentence.
    done: String,
}

/// Makes an act of whoever asks; says what came of it.
async fn perform(
    app: &App,
    operator: &Operator,
    by: (Option<&str>, &str),
    act: Act,
) -> Result<Json<Value>, Problem> {
    let signature = operator.sign(by.0, by.1)?;
    let answer = app.gateway.operations.perform(&act, &signature).await??;
    Ok(Json(answer.document))
}
