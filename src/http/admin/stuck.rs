//! What is stuck, one payment's life, what is wrong, who changed what; and
//! making an owner hand a partition over.

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{DoneView, ForcedBody, perform};
use crate::{
    domain::Reference,
    http::{
        intake::{self, Numbers, Query, Segment},
        operator::Operator,
        problem::{Code, Problem},
        state::App,
    },
    operations::{
        Act, AuditEntry, AuditFilter, Checkup, Life, NOTHING_KNOWN, Page, PendingFilter,
        PendingPage, PendingSummary,
    },
};

/// List pending entries
///
/// Entries that were taken and are not acknowledged, each with why and what is
/// safe to do. A page looks through 20,000 entries at most: it may be short and
/// still have a `next`.
#[utoipa::path(
    get,
    path = "/api/v1/admin/pending",
    tag = "operators",
    params(PendingFilter),
    responses(
        (status = 200, description = "A page, by partition and entry", body = PendingPage),
    )
)]
pub(in crate::http) async fn pending(
    State(app): State<App>,
    Query(filter): Query<PendingFilter>,
) -> Result<Json<PendingPage>, Problem> {
    Ok(Json(app.gateway.operations.pending(&filter).await?))
}

/// Summarise pending entries
///
/// How many there are, how old, and who holds them. Ages are those of the first
/// 200,000.
#[utoipa::path(
    get,
    path = "/api/v1/admin/pending/summary",
    tag = "operators",
    responses(
        (status = 200, description = "All pending entries at a glance", body = PendingSummary),
    )
)]
pub(in crate::http) async fn pending_summary(
    State(app): State<App>,
) -> Result<Json<PendingSummary>, Problem> {
    Ok(Json(app.gateway.operations.pending_summary(|_, _| ()).await?))
}

/// Show a payment's life
///
/// Received, appended, taken, tried, settled, and what was changed by hand.
#[utoipa::path(
    get,
    path = "/api/v1/admin/payments/{reference}",
    tag = "operators",
    responses(
        (status = 200, description = "Its life, the oldest moment first", body = Life),
        (status = 404, description = "Nothing is known under this reference"),
    )
)]
pub(in crate::http) async fn life(
    State(app): State<App>,
    Segment(reference): Segment,
) -> Result<Json<Life>, Problem> {
    let not_found = |detail| Problem::new(Code::PaymentNotFound, detail);
    let reference = Reference::parse(reference).map_err(|_| not_found(NOTHING_KNOWN.to_owned()))?;
    let operations = &app.gateway.operations;
    match operations.life(&reference).await? {
        Some(life) => Ok(Json(life)),
        None => Err(not_found(operations.nothing_known().await)),
    }
}

/// Make an owner hand a partition over
///
/// Its owner finishes the batch that is under way and releases the partition;
/// whoever should have it acquires it under a new epoch and settles first what
/// is pending.
#[utoipa::path(
    post,
    path = "/api/v1/admin/partitions/{partition}/release",
    tag = "operators",
    request_body = ForcedBody,
    responses(
        (status = 200, description = "The owner was asked, or its epoch has ended", body = DoneView),
        (status = 404, description = "There is no such partition"),
        (status = 409, description = "It was asked already, or has no owner"),
    )
)]
pub(in crate::http) async fn release_partition(
    State(app): State<App>,
    Numbers(partition): Numbers<u32>,
    operator: Operator,
    intake::Json(body): intake::Json<ForcedBody>,
) -> Result<Json<Value>, Problem> {
    let Ok(partition) = u16::try_from(partition) else {
        let detail = app.gateway.operations.no_partition(partition);
        return Err(Problem::new(Code::CaseNotFound, detail));
    };
    let act = Act::Release { partition, force: body.force, wait: false };
    perform(&app, &operator, (body.actor.as_deref(), &body.reason), act).await
}

/// Look for what is wrong
///
/// Stores, settings, clocks, owners, groups, what waits and what needs somebody,
/// each with what to do about it.
#[utoipa::path(
    get,
    path = "/api/v1/admin/doctor",
    tag = "operators",
    responses((status = 200, description = "What was found, the worst first", body = Checkup))
)]
pub(in crate::http) async fn doctor(State(app): State<App>) -> Json<Checkup> {
    Json(app.gateway.operations.checkup().await)
}

/// Changes that were made by hand.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct AuditView {
    /// The latest first.
    changes: Vec<AuditEntry>,
    /// Where the next page begins; nothing on the last.
    next: Option<i64>,
}

/// List changes that were made by hand
#[utoipa::path(
    get,
    path = "/api/v1/admin/audit-log",
    tag = "operators",
    params(AuditFilter),
    responses(
        (status = 200, description = "Who changed what, when and why", body = AuditView),
    )
)]
pub(in crate::http) async fn audit_log(
    State(app): State<App>,
    Query(filter): Query<AuditFilter>,
) -> Result<Json<AuditView>, Problem> {
    let Page { rows: changes, next } = app.gateway.operations.audit_log(&filter).await?;
    Ok(Json(AuditView { changes, next }))
}
