//! Tells where a payment is, from stream to ledger.

use std::collections::HashMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App, intake,
    intake::Segment,
    problem::{Code, FieldError, Problem},
    shapes,
    views::{ConflictView, Links, PaymentView, StatusView},
};
use crate::domain::{PaymentStatus, Reference};

/// References in one look-up.
const REFERENCES_MAX: usize = 1_000;

/// All that is known under one reference.
#[derive(Serialize, ToSchema)]
pub(super) struct PaymentDetail {
    #[serde(flatten)]
    payment: PaymentView,
    /// The same reference under other statuses, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<PaymentView>,
    /// Payments with other content that came under this reference; they have
    /// no effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conflicts: Vec<ConflictView>,
    links: Links,
}

/// Where is a payment?
///
/// Answered from the stream until the ledger has it.
#[utoipa::path(
    get,
    path = "/api/v1/payments/{reference}",
    tag = "payments",
    responses(
        (status = 200, description = "Where it is", body = PaymentDetail),
        (status = 404, description = "No payment has this reference"),
    )
)]
pub(super) async fn find(
    State(app): State<App>,
    Segment(reference): Segment,
) -> Result<Json<PaymentDetail>, Problem> {
    let not_found =
        || Problem::new(Code::PaymentNotFound, "it was never taken, or not under this reference");
    let reference = Reference::parse(reference).map_err(|_| not_found())?;
    let reader = &app.gateway.reader;
    let rows = app.ask(reader.payments(std::slice::from_ref(&reference))).await?;
    let mut views: Vec<PaymentView> = rows.into_iter().map(PaymentView::from).collect();
    if !views.iter().any(is_complete) {
        // The stream may hold what the ledger does not have yet.
        for seen in app.call(app.gateway.finder.recent(&reference)).await? {
            let known = |view: &PaymentView| {
                view.payment_status.as_deref() == Some(seen.status.as_str())
                    || matches!(view.status, StatusView::DeadLettered | StatusView::Discarded)
            };
            if !views.iter().any(known) {
                let now = (app.gateway.clock)();
                views.push(PaymentView::waiting(reference.as_str(), seen, now));
            }
        }
    }
    if views.is_empty() {
        // It may have waited for longer than references are remembered.
        let now = (app.gateway.clock)();
        let seen = app.call(app.gateway.finder.long_waiting(&reference, now)).await?;
        views.extend(seen.map(|seen| PaymentView::waiting(reference.as_str(), seen, now)));
    }
    // The one that moves money, else the latest.
    let main = views.iter().position(is_complete).or(views.len().checked_sub(1));
    let payment = views.remove(main.ok_or_else(not_found)?);
    let conflicts = app.ask(reader.conflicts(&reference)).await?;
    let links = Links::new(reference.as_str(), payment.customer_id.as_deref());
    let conflicts = conflicts.into_iter().map(ConflictView::from).collect();
    Ok(Json(PaymentDetail { payment, notices: views, conflicts, links }))
}

/// Payments to look up.
#[derive(Deserialize, ToSchema)]
pub(super) struct LookupBody {
    /// At most 1,000.
    #[schema(value_type = Vec<shapes::Reference>, max_items = 1000)]
    transaction_references: Vec<String>,
}

/// Payments that were looked up.
#[derive(Serialize, ToSchema)]
pub(super) struct LookupView {
    /// One for each reference, in order.
    payments: Vec<PaymentView>,
}

/// Where are many payments?
///
/// What neither the ledger nor the stream knows has the status `unknown`.
#[utoipa::path(
    post,
    path = "/api/v1/payments/lookup",
    tag = "payments",
    request_body = LookupBody,
    responses(
        (status = 200, description = "One answer for each reference, in order", body = LookupView),
        (status = 413, description = "Too many references"),
        (status = 422, description = "A reference is not valid"),
    )
)]
pub(super) async fn look_up(
    State(app): State<App>,
    intake::Json(body): intake::Json<LookupBody>,
) -> Result<Json<LookupView>, Problem> {
    let wanted = body.transaction_references;
    if wanted.len() > REFERENCES_MAX {
        let detail =
            format!("{} references were sent, at most {REFERENCES_MAX} are taken", wanted.len());
        return Err(Problem::new(Code::BatchTooLarge, detail));
    }
    let parse = |(index, text): (usize, String)| {
        Reference::parse(text).map_err(|invalid| {
            let field = format!("transaction_references/{index}");
            Problem::invalid(Code::InvalidRequest, vec![FieldError::new(&field, invalid)])
        })
    };
    let wanted: Vec<Reference> =
        wanted.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    let mut found: HashMap<String, PaymentView> = HashMap::with_capacity(wanted.len());
    for row in app.ask(app.gateway.reader.payments(&wanted)).await? {
        let view = PaymentView::from(row);
        let known = found.get(&view.transaction_reference);
        if !known.is_some_and(is_complete) {
            found.insert(view.transaction_reference.clone(), view);
        }
    }
    let unknown = wanted.iter().filter(|one| !found.contains_key(one.as_str()));
    for view in waiting(&app, unknown.cloned().collect()).await? {
        found.insert(view.transaction_reference.clone(), view);
    }
    let view = |reference: &Reference| {
        let known = found.get(reference.as_str()).cloned();
        known.unwrap_or_else(|| PaymentView::unknown(reference.as_str()))
    };
    Ok(Json(LookupView { payments: wanted.iter().map(view).collect() }))
}

/// Those of these payments that are in the streams.
async fn waiting(app: &App, references: Vec<Reference>) -> Result<Vec<PaymentView>, Problem> {
    if references.is_empty() {
        return Ok(Vec::new());
    }
    // Each costs Redis as much as there are partitions: payments come first.
    let busy = |_| Problem::new(Code::GatewayBusy, "send it again later");
    let _place = app.look_ups.acquire().await.map_err(busy)?;
    let seen = app.call(app.gateway.finder.recent_of(&references)).await?;
    let now = (app.gateway.clock)();
    let views = references.iter().zip(seen).filter_map(|(reference, seen)| {
        let latest = seen.into_iter().next_back()?;
        Some(PaymentView::waiting(reference.as_str(), latest, now))
    });
    Ok(views.collect())
}

fn is_complete(view: &PaymentView) -> bool {
    view.payment_status.as_deref() == Some(PaymentStatus::Complete.as_str())
}
