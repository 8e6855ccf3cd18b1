//! Tells where a payment is, from stream to ledger.

use std::collections::{HashMap, HashSet};

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    intake,
    intake::Segment,
    operator::Principal,
    problem::{Code, FieldError, Problem},
    shapes,
    state::{App, Gateway},
    views::{Links, waiting},
};
use crate::{
    domain::{PaymentStatus, Reference},
    ledger::{ConflictRow, PaymentRow},
    operations::NOTHING_KNOWN,
    stream::{Unsettled, UnsettledEntry},
};

const REFERENCES_MAX: usize = 1_000;

/// All that is known under one reference.
#[derive(Serialize, ToSchema)]
pub(super) struct PaymentDetail {
    #[serde(flatten)]
    payment: PaymentRow,
    /// The same reference under other statuses, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<PaymentRow>,
    /// Payments with other content that came under this reference; they have
    /// no effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conflicts: Vec<ConflictRow>,
    links: Links,
}

/// Look up a payment
///
/// Answered from the stream until the ledger has it. While the ledger cannot be
/// asked, a payment that waits in the stream is answered all the same, as
/// `accepted` and without `conflicts`.
#[utoipa::path(
    get,
    path = "/api/v1/payments/{reference}",
    tag = "payments",
    responses(
        (status = 200, description = "The payment and its status", body = PaymentDetail),
        (status = 404, description = "Nothing is known under this reference"),
    )
)]
pub(super) async fn find(
    State(app): State<App>,
    caller: Principal,
    Segment(reference): Segment,
) -> Result<Json<PaymentDetail>, Problem> {
    app.quotas.take(&caller, 1)?;
    let not_found = || Problem::new(Code::PaymentNotFound, NOTHING_KNOWN);
    let reference = Reference::of(&caller.source, reference).map_err(|_| not_found())?;
    let Located { mut views, ledger_asked } =
        locate(&app, std::slice::from_ref(&reference)).await?;
    let mut notices = views.remove(reference.as_str()).unwrap_or_default();
    let payment = notices.remove(main_of(&notices).ok_or_else(not_found)?);
    let conflicts = match ledger_asked {
        true => app.ask(app.gateway.reader.conflicts(&reference)).await?,
        false => Vec::new(),
    };
    let links = Links::new(&reference, payment.customer_id.as_deref());
    let payment = caller.sees(payment);
    let notices = notices.into_iter().map(|notice| caller.sees(notice)).collect();
    Ok(Json(PaymentDetail { payment, notices, conflicts, links }))
}

/// Payments to look up.
#[derive(Deserialize, ToSchema)]
pub(super) struct LookupBody {
    /// At most 1,000.
    #[schema(value_type = Vec<shapes::ReferenceText>, max_items = 1000)]
    transaction_references: Vec<String>,
}

/// Payments that were looked up.
#[derive(Serialize, ToSchema)]
pub(super) struct LookupView {
    /// One for each reference, in order.
    payments: Vec<PaymentRow>,
}

/// Look up many payments
///
/// What neither the ledger nor the stream knows has the status `unknown`. While the
/// ledger cannot be asked, the answer is 503 unless all of them wait in the stream.
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
    caller: Principal,
    intake::Json(body): intake::Json<LookupBody>,
) -> Result<Json<LookupView>, Problem> {
    let wanted = body.transaction_references;
    if wanted.len() > REFERENCES_MAX {
        let detail =
            format!("{} references were sent, at most {REFERENCES_MAX} are taken", wanted.len());
        return Err(Problem::new(Code::BatchTooLarge, detail));
    }
    app.quotas.take(&caller, wanted.len())?;
    let parse = |(index, text): (usize, String)| {
        Reference::of(&caller.source, text).map_err(|invalid| {
            let field = format!("transaction_references/{index}");
            Problem::invalid(Code::InvalidRequest, vec![FieldError::new(&field, invalid)])
        })
    };
    let wanted: Vec<Reference> =
        wanted.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    let Located { views, .. } = locate(&app, &wanted).await?;
    let view = |reference: &Reference| {
        let views = views.get(reference.as_str()).map(Vec::as_slice).unwrap_or_default();
        let main = main_of(views).and_then(|main| views.get(main));
        let known = main.cloned().map(|row| caller.sees(row));
        known.unwrap_or_else(|| PaymentRow::unknown(reference))
    };
    Ok(Json(LookupView { payments: wanted.iter().map(view).collect() }))
}

type Views = HashMap<String, Vec<PaymentRow>>;

/// Where payments are. What is not there is known to nobody.
struct Located {
    views: Views,
    ledger_asked: bool,
}

async fn locate(app: &App, references: &[Reference]) -> Result<Located, Problem> {
    match locate_in_both(app, references).await {
        Ok(views) => Ok(Located { views, ledger_asked: true }),
        Err(away) if away.code() == Code::LedgerUnavailable => {
            let views = locate_in_streams(app, references).await?;
            match references.iter().all(|one| views.contains_key(one.as_str())) {
                true => Ok(Located { views, ledger_asked: false }),
                // The others may be settled.
                false => Err(away),
            }
        }
        Err(problem) => Err(problem),
    }
}

/// Asks the ledger, and the streams for what has not moved money in it. What was
/// given out before the cursors are read is settled, or is beyond them in the
/// streams. Redis is not asked further where nothing is beyond them.
async fn locate_in_both(app: &App, references: &[Reference]) -> Result<Views, Problem> {
    let Gateway { reader, finder, registrar, clock, .. } = &app.gateway;
    let mut views = Views::with_capacity(references.len());
    add_settled(&mut views, app.ask(reader.payments(references)).await?);
    let is_open =
        |one: &&Reference| !views.get(one.as_str()).is_some_and(|v| v.iter().any(is_complete));
    let mut open: Vec<Reference> = references.iter().filter(is_open).cloned().collect();
    if open.is_empty() {
        return Ok(views);
    }
    let heads = app.call(finder.heads()).await?;
    let settled = app.ask(reader.settled_up_to(registrar.generation())).await?;
    let seen = search(app, &open, &heads.beyond(&settled)?).await?;
    // The rest may have been settled since the ledger was asked first.
    let found: HashSet<&str> = seen.iter().map(|seen| seen.reference.as_str()).collect();
    open.retain(|one| !found.contains(one.as_str()));
    if !open.is_empty() {
        let rows = app.ask(reader.payments(&open)).await?;
        for one in &open {
            views.remove(one.as_str());
        }
        add_settled(&mut views, rows);
    }
    add_waiting(&mut views, seen, clock());
    Ok(views)
}

/// Those that are certainly unsettled.
async fn locate_in_streams(app: &App, references: &[Reference]) -> Result<Views, Problem> {
    let unsettled = app.call(app.gateway.finder.unacknowledged()).await?;
    let mut views = Views::new();
    add_waiting(&mut views, search(app, references, &unsettled).await?, (app.gateway.clock)());
    Ok(views)
}

async fn search(
    app: &App,
    references: &[Reference],
    unsettled: &Unsettled,
) -> Result<Vec<UnsettledEntry>, Problem> {
    if unsettled.is_empty() {
        return Ok(Vec::new());
    }
    // Searching costs Redis time that payments need.
    let busy = |_| Problem::new(Code::GatewayBusy, "send it again later");
    let _place = app.look_ups.acquire().await.map_err(busy)?;
    app.call(app.gateway.finder.find(references, unsettled)).await
}

fn add_settled(views: &mut Views, rows: Vec<PaymentRow>) {
    for row in rows {
        views.entry(row.transaction_reference.clone()).or_default().push(row);
    }
}

/// Without what the ledger has: the same entry, or another of the same status.
fn add_waiting(views: &mut Views, seen: Vec<UnsettledEntry>, now: DateTime<Utc>) {
    for seen in seen {
        let view = waiting(seen, now);
        let known = views.entry(view.transaction_reference.clone()).or_default();
        let is_known = |other: &PaymentRow| {
            (other.partition, &other.stream_id) == (view.partition, &view.stream_id)
                || !other.is_dead()
                    && other.payment_status.is_some()
                    && other.payment_status == view.payment_status
        };
        if !known.iter().any(is_known) {
            known.push(view);
        }
    }
}

/// The one that moves money, else the latest.
fn main_of(views: &[PaymentRow]) -> Option<usize> {
    views.iter().position(is_complete).or(views.len().checked_sub(1))
}

fn is_complete(view: &PaymentRow) -> bool {
    view.payment_status.as_deref() == Some(PaymentStatus::Complete.as_str()) && !view.is_dead()
}
