//! How much this gateway logs, while it runs. Other processes are told by
//! SIGUSR1.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    domain::Invalid,
    http::{
        App, intake,
        operator::Operator,
        problem::{Code, FieldError, Problem},
        shapes,
    },
    telemetry::LogLevel,
};

/// How much is logged.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct LogView {
    /// Now: a level, or directives such as `info,paystream=debug`.
    level: String,
    /// When the process started.
    configured: String,
}

/// What is to be logged from now on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LogBody {
    /// Nothing for what was configured.
    #[schema(value_type = Option<shapes::LogFilter>)]
    level: Option<String>,
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
/// Of this gateway, until it ends. `docker compose kill -s USR1 worker` does the
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
    operator: Operator,
    intake::Json(body): intake::Json<LogBody>,
) -> Result<Json<LogView>, Problem> {
    let level = level(&app)?;
    let wanted = body.level.unwrap_or_else(|| level.configured().to_owned());
    level.set(&wanted).map_err(|_| {
        let invalid = Invalid::new("bad_filter", "must be a level such as debug, or directives");
        Problem::invalid(Code::InvalidRequest, vec![FieldError::new("level", invalid)])
    })?;
    warn!(level = wanted, operator = operator.0, "the log level was changed");
    Ok(Json(view(level)))
}

fn level(app: &App) -> Result<&LogLevel, Problem> {
    let absent = || Problem::new(Code::NotPossible, "this process does not log by itself");
    app.gateway.signals.log_level().ok_or_else(absent)
}

fn view(level: &LogLevel) -> LogView {
    LogView { level: level.now(), configured: level.configured().to_owned() }
}
