//! Truthful health: what answers, what does not, and whether the process makes
//! progress.

use std::time::Instant;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    access,
    peer::Peer,
    state::App,
    stores::{DependencyView, StoreHealth},
};
use crate::{
    circuit_breaker::CircuitBreaker,
    progress::{Board, WorkerHealth},
};

/// Health of the process. Without a token, the status only.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthView {
    /// `degraded`: payments are taken, but something is away.
    #[schema(pattern = "^(ok|degraded|down)$")]
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dependencies: Option<DependenciesView>,
    /// Findings of state that Redis has lost and nobody has dealt with; see
    /// `paystream losses list`. Unknown while PostgreSQL is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_losses: Option<i64>,
    /// The worker of this process; none in a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<DependencyView>,
}

#[derive(Serialize, ToSchema)]
struct DependenciesView {
    redis: DependencyView,
    postgresql: DependencyView,
}

/// A yes or no in words.
#[derive(Serialize, ToSchema)]
pub(super) struct AnswerView {
    /// `live`, `ready`, or why not.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Show health
#[utoipa::path(
    get,
    path = "/api/v1/health",
    tag = "health",
    security(()),
    responses(
        (status = 200, description = "Payments are taken", body = HealthView),
        (status = 503, description = "Payments are not taken", body = HealthView),
    )
)]
pub(super) async fn health(
    State(app): State<App>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response {
    let StoreHealth { mut redis, mut postgresql, open_losses, .. } = app.stores().await;
    redis.circuit = circuit_word(&app.gateway.redis);
    postgresql.circuit = circuit_word(&app.gateway.postgresql);
    let worker = app.gateway.board.as_deref().map(worker_view);
    let stalled = worker.as_ref().is_some_and(|worker| worker.status == "stalled");
    let (code, status) = if redis.status == "down" || app.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "down")
    } else if postgresql.status == "down" || stalled || open_losses.is_some_and(|open| open > 0) {
        (StatusCode::OK, "degraded")
    } else {
        (StatusCode::OK, "ok")
    };
    if !access::may_see_details(&app.gateway, &headers, peer.map(|Extension(peer)| peer)) {
        let view = HealthView { status, dependencies: None, open_losses: None, worker: None };
        return (code, Json(view)).into_response();
    }
    let dependencies = Some(DependenciesView { redis, postgresql });
    (code, Json(HealthView { status, dependencies, open_losses, worker })).into_response()
}

/// Check liveness
///
/// 503 means that a restart may help: entries wait and the worker makes no progress,
/// although Redis and PostgreSQL are available.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    security(()),
    responses(
        (status = 200, description = "Live", body = AnswerView),
        (status = 503, description = "Stalled", body = AnswerView),
    )
)]
pub(super) async fn live(State(app): State<App>) -> Response {
    live_answer(app.gateway.board.as_deref())
}

/// Check readiness
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    security(()),
    responses(
        (status = 200, description = "Ready", body = AnswerView),
        (status = 503, description = "Not ready: stopping, or Redis is not available", body = AnswerView),
    )
)]
pub(super) async fn ready(State(app): State<App>) -> Response {
    if app.stop.is_cancelled() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "stopping", None);
    }
    if let Err(open) = app.gateway.redis.check(Instant::now().into()) {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "redis_down", Some(open.to_string()));
    }
    let redis = app.stores().await.redis;
    match redis.status {
        "up" => answer(StatusCode::OK, "ready", None),
        _ => answer(StatusCode::SERVICE_UNAVAILABLE, "redis_down", redis.detail),
    }
}

/// Whether the worker behind this board makes progress.
pub(super) fn live_answer(board: Option<&Board>) -> Response {
    let worker = board.map_or_else(|| DependencyView::new("working", None), worker_view);
    match worker.status {
        "stalled" => answer(StatusCode::SERVICE_UNAVAILABLE, "stalled", worker.detail),
        _ => answer(StatusCode::OK, "live", worker.detail),
    }
}

/// Whether a worker without a gateway is at work.
pub(super) fn worker_ready(board: &Board, stop: &CancellationToken) -> Response {
    let worker = worker_view(board);
    match worker.status {
        _ if stop.is_cancelled() => answer(StatusCode::SERVICE_UNAVAILABLE, "stopping", None),
        "waiting" => answer(StatusCode::SERVICE_UNAVAILABLE, "waiting", worker.detail),
        _ => answer(StatusCode::OK, "ready", None),
    }
}

fn circuit_word(circuit: &CircuitBreaker) -> Option<&'static str> {
    Some(if circuit.check(Instant::now().into()).is_ok() { "closed" } else { "open" })
}

fn answer(code: StatusCode, status: &'static str, detail: Option<String>) -> Response {
    (code, Json(AnswerView { status, detail })).into_response()
}

fn worker_view(board: &Board) -> DependencyView {
    match board.read(Instant::now()) {
        WorkerHealth::Working => DependencyView::new("working", None),
        WorkerHealth::Waiting(reason) => DependencyView::new("waiting", Some(reason)),
        WorkerHealth::Stalled(still) => {
            let detail = format!("a lane has not moved for {} s", still.as_secs());
            DependencyView::new("stalled", Some(detail))
        }
    }
}
