//! Truthful health: what answers, what does not, and whether the process makes
//! progress.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{access, state::App};
use crate::{
    circuit_breaker::CircuitBreaker,
    ledger::{self, Reader},
    progress::{Board, WorkerHealth},
    stream::Producer,
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
pub(super) async fn health(State(app): State<App>, headers: HeaderMap) -> Response {
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
    if !access::may_see_details(&app.gateway.config, &headers) {
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

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer is given again: whoever asks needs no token.
const KEPT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct LatestHealth(Mutex<Option<StoreHealth>>);

#[derive(Clone)]
pub(super) struct StoreHealth {
    asked: Instant,
    redis: DependencyView,
    postgresql: DependencyView,
    open_losses: Option<i64>,
}

impl LatestHealth {
    /// Asks the stores, unless that was just done. Whoever comes meanwhile waits
    /// for the same answer.
    pub(super) async fn look(
        &self,
        producer: &Producer,
        reader: &Reader,
        circuit: &CircuitBreaker,
    ) -> StoreHealth {
        let mut latest = self.0.lock().await;
        if let Some(stores) = latest.as_ref().filter(|stores| stores.asked.elapsed() < KEPT) {
            return stores.clone();
        }
        let (redis, (postgresql, open_losses)) = tokio::join!(
            async { dependency(timeout(ANSWER_TIMEOUT, producer.ping()).await).0 },
            postgresql(reader, circuit)
        );
        let stores = StoreHealth { asked: Instant::now(), redis, postgresql, open_losses };
        latest.insert(stores).clone()
    }
}

#[derive(Clone, Serialize, ToSchema)]
pub(super) struct DependencyView {
    /// Of a store `up` or `down`, else of a worker.
    #[schema(pattern = "^(up|down|working|waiting|stalled)$")]
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// `open`: calls are refused at once until a probe succeeds.
    #[schema(pattern = "^(open|closed)$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit: Option<&'static str>,
}

impl DependencyView {
    fn new(status: &'static str, detail: Option<String>) -> Self {
        Self { status, detail, circuit: None }
    }
}

async fn postgresql(reader: &Reader, circuit: &CircuitBreaker) -> (DependencyView, Option<i64>) {
    let asked = timeout(ANSWER_TIMEOUT, reader.open_losses()).await;
    let is_busy = match &asked {
        Ok(asked) => matches!(asked, Err(ledger::Error::Busy)),
        Err(_) => reader.usage().used >= reader.usage().max,
    };
    if is_busy && circuit.check(Instant::now().into()).is_ok() {
        let detail = "every connection for queries is in use".to_owned();
        return (DependencyView::new("up", Some(detail)), None);
    }
    dependency(asked)
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
