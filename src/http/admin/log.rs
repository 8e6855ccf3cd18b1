//! How much this gateway logs, while it runs. Other processes are told by
//! SIGUSR1. Never waits for PostgreSQL: a change that the audit log cannot take
//! is a warning in the log.

use std::time::Duration;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    domain::Invalid,
    http::{
        intake,
        operator::Principal,
        problem::{Code, FieldError, Problem},
        shapes,
        state::App,
    },
    operations::Signature,
    telemetry::LogLevel,
};

/// How long PostgreSQL has to take a row of the audit log.
const NOTE_PATIENCE: Duration = Duration::from_secs(2);

/// How much is logged.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct LogView {
    /// Now: a level, or directives such as `info,paystream=debug`.
    level: String,
    configured: String,
}

/// What is to be logged from now on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LogBody {
    /// Nothing for what was configured.
    #[schema(value_type = Option<shapes::LogFilter>)]
    level: Option<String>,
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = Option<shapes::Reason>)]
    reason: Option<String>,
}

/// Show how much is logged
#[utoipa::path(
    get,
    path = "/api/v1/admin/log",
    tag = "operators",
    responses((status = 200, description = "What this gateway logs", body = LogView))
)]
pub(in crate::http) async fn log_level(State(app): State<App>) -> Result<Json<LogView>, Problem> {
    Ok(Json(view(level(&app)?)))
}

/// Change how much is logged
///
/// Of this gateway, until it ends; while PostgreSQL is away, too, and then without
/// a row in the audit log. `docker compose kill -s USR1 worker` does the
/// same for other processes: in detail, and back at the next.
#[utoipa::path(
    put,
    path = "/api/v1/admin/log",
    tag = "operators",
    request_body = LogBody,
    responses(
        (status = 200, description = "What it logs from now on", body = LogView),
        (status = 422, description = "It is not a log filter; nothing has changed"),
    )
)]
pub(in crate::http) async fn set_log_level(
    State(app): State<App>,
    operator: Principal,
    intake::Json(body): intake::Json<LogBody>,
) -> Result<Json<LogView>, Problem> {
    let by = operator.sign_or(
        body.actor.as_deref(),
        body.reason.as_deref(),
        "the log level was changed by the API",
    )?;
    let level = level(&app)?;
    let before = level.now();
    let wanted = body.level.unwrap_or_else(|| level.configured().to_owned());
    level.set(&wanted).map_err(|_| {
        let invalid = Invalid::new("bad_filter", "must be a level such as debug, or directives");
        Problem::invalid(Code::InvalidRequest, vec![FieldError::new("level", invalid)])
    })?;
    let Signature { actor, reason } = &by;
    warn!(level = wanted, before, actor, reason, "the log level was changed");
    let noting = app.gateway.operations.note_log_level(&before, &wanted, &by);
    let noted = timeout(NOTE_PATIENCE, noting).await.map(|noted| noted.map_err(|e| e.sentence()));
    if let Err(error) = noted.unwrap_or_else(|_| Err("PostgreSQL does not answer".to_owned())) {
        warn!(error, actor, level = wanted, "the change of the log level is not in the audit log");
    }
    Ok(Json(view(level)))
}

fn level(app: &App) -> Result<&LogLevel, Problem> {
    let absent = || Problem::new(Code::NotPossible, "this process does not log by itself");
    app.gateway.signals.log_level().ok_or_else(absent)
}

fn view(level: &LogLevel) -> LogView {
    LogView { level: level.now(), configured: level.configured().to_owned() }
}
