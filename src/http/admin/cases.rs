//! Payments that wait for somebody's decision: suspense, conflicts, parked.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{DoneView, ForcedBody, perform};
use crate::{
    domain::{CustomerId, Reference},
    http::{
        intake::{self, Numbers, Query, Segment},
        operator::{Operator, SignatureBody},
        problem::{Code, FieldError, Problem},
        shapes,
        state::App,
    },
    operations::{
        Act, AssignReport, Conflict, ConflictFilter, ConflictName, Page, ParkedCustomer,
        SuspenseFilter, SuspensePayment,
    },
};

/// A page of payments in suspense.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct SuspenseView {
    /// The longest held first.
    payments: Vec<SuspensePayment>,
    /// Where the next page begins; nothing on the last.
    next: Option<String>,
}

/// List payments in suspense
#[utoipa::path(
    get,
    path = "/api/v1/admin/suspense",
    tag = "operators",
    params(SuspenseFilter),
    responses(
        (status = 200, description = "A page, the longest held first", body = SuspenseView),
    )
)]
pub(in crate::http) async fn suspense(
    State(app): State<App>,
    Query(filter): Query<SuspenseFilter>,
) -> Result<Json<SuspenseView>, Problem> {
    let Page { rows: payments, next } = app.gateway.operations.suspense(&filter).await?;
    Ok(Json(SuspenseView { payments, next }))
}

/// Whose a payment in suspense is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct AssignBody {
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    reason: String,
    /// The customer whose payment it is.
    #[schema(value_type = shapes::CustomerId)]
    customer_id: String,
}

/// Assign a payment in suspense to its customer
///
/// Applies it to that account, once.
#[utoipa::path(
    post,
    path = "/api/v1/admin/suspense/{reference}/assign",
    tag = "operators",
    request_body = AssignBody,
    responses(
        (status = 200, description = "It is applied", body = AssignReport),
        (status = 404, description = "It is not in suspense"),
        (status = 409, description = "It is resolved already"),
        (status = 422, description = "No such customer, or not valid"),
    )
)]
pub(in crate::http) async fn assign(
    State(app): State<App>,
    Segment(reference): Segment,
    operator: Operator,
    intake::Json(body): intake::Json<AssignBody>,
) -> Result<Json<Value>, Problem> {
    let reference = in_suspense(reference)?;
    let customer = CustomerId::parse(body.customer_id).map_err(|invalid| {
        let errors = vec![FieldError::new("customer_id", invalid)];
        Problem::invalid(Code::InvalidRequest, errors)
    })?;
    let act = Act::Assign { reference, customer: Some(customer) };
    perform(&app, &operator, (body.actor.as_deref(), &body.reason), act).await
}

/// Mark a payment in suspense for refund
///
/// It stays in suspense and is not applied any more.
#[utoipa::path(
    post,
    path = "/api/v1/admin/suspense/{reference}/refund-mark",
    tag = "operators",
    request_body = SignatureBody,
    responses(
        (status = 200, description = "It is marked", body = DoneView),
        (status = 404, description = "It is not in suspense"),
        (status = 409, description = "It is resolved already"),
    )
)]
pub(in crate::http) async fn mark_for_refund(
    State(app): State<App>,
    Segment(reference): Segment,
    operator: Operator,
    intake::Json(body): intake::Json<SignatureBody>,
) -> Result<Json<Value>, Problem> {
    let act = Act::MarkForRefund { reference: in_suspense(reference)? };
    perform(&app, &operator, (body.actor.as_deref(), &body.reason), act).await
}

/// What is no reference is not in suspense.
fn in_suspense(reference: String) -> Result<Reference, Problem> {
    Reference::parse(reference).map_err(|_| {
        Problem::new(Code::CaseNotFound, "no payment of this reference is in suspense")
    })
}

/// A page of conflicts.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ConflictsView {
    /// The longest open first.
    conflicts: Vec<Conflict>,
    /// Where the next page begins; nothing on the last.
    next: Option<String>,
}

/// List conflicts
///
/// Payments that came under a used reference with other content, beside the one
/// that has the reference.
#[utoipa::path(
    get,
    path = "/api/v1/admin/conflicts",
    tag = "operators",
    params(ConflictFilter),
    responses(
        (status = 200, description = "A page, the longest open first", body = ConflictsView),
    )
)]
pub(in crate::http) async fn conflicts(
    State(app): State<App>,
    Query(filter): Query<ConflictFilter>,
) -> Result<Json<ConflictsView>, Problem> {
    let Page { rows: conflicts, next } = app.gateway.operations.conflicts(&filter).await?;
    Ok(Json(ConflictsView { conflicts, next: next.map(|next| next.to_string()) }))
}

/// Resolve a conflict
///
/// Notes that it was dealt with. It never has an effect.
#[utoipa::path(
    post,
    path = "/api/v1/admin/conflicts/{partition}/{sequence}/resolve",
    tag = "operators",
    request_body = SignatureBody,
    responses(
        (status = 200, description = "It is resolved", body = DoneView),
        (status = 404, description = "There is no such conflict"),
        (status = 409, description = "It is resolved already"),
    )
)]
pub(in crate::http) async fn resolve_conflict(
    State(app): State<App>,
    Numbers((partition, sequence)): Numbers<(u16, i64)>,
    operator: Operator,
    intake::Json(body): intake::Json<SignatureBody>,
) -> Result<Json<Value>, Problem> {
    let act = Act::Resolve { conflict: ConflictName { partition, sequence } };
    perform(&app, &operator, (body.actor.as_deref(), &body.reason), act).await
}

/// Customers whose payments wait.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ParkedView {
    /// The longest parked first; at most 1,000.
    customers: Vec<ParkedCustomer>,
}

/// List parked customers
///
/// Those whose payments wait behind a dead letter.
#[utoipa::path(
    get,
    path = "/api/v1/admin/parked",
    tag = "operators",
    responses(
        (status = 200, description = "The longest parked first", body = ParkedView),
    )
)]
pub(in crate::http) async fn parked(State(app): State<App>) -> Result<Json<ParkedView>, Problem> {
    Ok(Json(ParkedView { customers: app.gateway.operations.parked(None).await? }))
}

/// Release a parked customer
///
/// Settles what waits, in its order, and parks no more. Refused while a dead
/// letter that it waits for is open, unless forced: it would be settled before it.
#[utoipa::path(
    post,
    path = "/api/v1/admin/parked/{customer_id}/release",
    tag = "operators",
    request_body = ForcedBody,
    responses(
        (status = 200, description = "They are settled", body = DoneView),
        (status = 404, description = "No such customer is parked"),
        (status = 422, description = "The request is not valid, or a dead letter that they wait for is open"),
    )
)]
pub(in crate::http) async fn release_parked(
    State(app): State<App>,
    Segment(customer): Segment,
    operator: Operator,
    intake::Json(body): intake::Json<ForcedBody>,
) -> Result<Json<Value>, Problem> {
    let customer = CustomerId::parse(customer)
        .map_err(|_| Problem::new(Code::CaseNotFound, "no customer of this id is parked"))?;
    let act = Act::Unpark { customer, force: body.force };
    perform(&app, &operator, (body.actor.as_deref(), &body.reason), act).await
}
