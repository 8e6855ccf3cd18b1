//! Truthful health: what answers, what does not, and whether the process makes
//! progress.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::App;
use crate::{
    circuit::Circuit,
    health::{Board, WorkerHealth},
};

/// How long a dependency has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How the process fares.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthView {
    /// `ok`, `degraded` (payments are taken, something is away) or `down`.
    status: &'static str,
    dependencies: DependenciesView,
    /// Findings of state that Redis has lost and nobody has dealt with; see
    /// `paystream losses list`. Unknown while PostgreSQL is away.
    open_losses: Option<i64>,
    /// The worker of this process; none in a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<DependencyView>,
}

/// What the process needs.
#[derive(Serialize, ToSchema)]
struct DependenciesView {
    redis: DependencyView,
    postgresql: DependencyView,
}

/// How something fares.
#[derive(Serialize, ToSchema)]
struct DependencyView {
    /// `up` or `down`; of a worker `working`, `waiting` or `stalled`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// `closed`, or `open`: calls are refused at once until a probe succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit: Option<&'static str>,
}

impl DependencyView {
    fn new(status: &'static str, detail: Option<String>) -> Self {
        Self { status, detail, circuit: None }
    }
}

/// A yes or no in words.
#[derive(Serialize, ToSchema)]
pub(super) struct AnswerView {
    /// `live`, `ready`, or why not.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// How does it fare?
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
pub(super) async fn health(State(app): State<App>) -> Response {
    let (mut redis, (mut postgresql, open_losses)) = tokio::join!(redis(&app), postgresql(&app));
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
    let dependencies = DependenciesView { redis, postgresql };
    (code, Json(HealthView { status, dependencies, open_losses, worker })).into_response()
}

/// Does it make progress?
///
/// 503 means that a restart may help: entries wait and the worker does not
/// move, although nothing it needs is away.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    security(()),
    responses(
        (status = 200, description = "Yes", body = AnswerView),
        (status = 503, description = "No", body = AnswerView),
    )
)]
pub(super) async fn live(State(app): State<App>) -> Response {
    live_answer(app.gateway.board.as_deref())
}

/// Should it get requests?
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    security(()),
    responses(
        (status = 200, description = "Yes", body = AnswerView),
        (status = 503, description = "No: it is stopping, or Redis is away", body = AnswerView),
    )
)]
pub(super) async fn ready(State(app): State<App>) -> Response {
    if app.stop.is_cancelled() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "stopping", None);
    }
    if let Err(open) = app.gateway.redis.check(Instant::now().into()) {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "redis_down", Some(open.to_string()));
    }
    let redis = redis(&app).await;
    match redis.status {
        "up" => answer(StatusCode::OK, "ready", None),
        _ => answer(StatusCode::SERVICE_UNAVAILABLE, "redis_down", redis.detail),
    }
}

/// Whether the worker behind this board makes progress.
pub(super) fn live_answer(board: Option<&Board>) -> Response {
    match board.map(|board| board.read(Instant::now())) {
        Some(WorkerHealth::Stalled(still)) => {
            let detail = format!("a lane has not moved for {} s", still.as_secs());
            answer(StatusCode::SERVICE_UNAVAILABLE, "stalled", Some(detail))
        }
        Some(WorkerHealth::Waiting(reason)) => answer(StatusCode::OK, "live", Some(reason)),
        Some(WorkerHealth::Working) | None => answer(StatusCode::OK, "live", None),
    }
}

/// Whether a worker without a gateway is at work.
pub(super) fn worker_ready(board: &Board, stop: &CancellationToken) -> Response {
    if stop.is_cancelled() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "stopping", None);
    }
    match board.read(Instant::now()) {
        WorkerHealth::Waiting(reason) => {
            answer(StatusCode::SERVICE_UNAVAILABLE, "waiting", Some(reason))
        }
        WorkerHealth::Working | WorkerHealth::Stalled(_) => answer(StatusCode::OK, "ready", None),
    }
}

fn circuit_word(circuit: &Circuit) -> Option<&'static str> {
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

async fn redis(app: &App) -> DependencyView {
    dependency(timeout(ANSWER_TIMEOUT, app.gateway.producer.ping()).await).0
}

async fn postgresql(app: &App) -> (DependencyView, Option<i64>) {
    dependency(timeout(ANSWER_TIMEOUT, app.gateway.reader.open_losses()).await)
}

/// How a dependency fares, and what it answered.
fn dependency<T, E: std::fmt::Display>(
    result: Result<Result<T, E>, tokio::time::error::Elapsed>,
) -> (DependencyView, Option<T>) {
    let detail = match result {
        Ok(Ok(answer)) => return (DependencyView::new("up", None), Some(answer)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
    };
    (DependencyView::new("down", Some(detail)), None)
}
