//! Accepts one payment: reads it, appends it, and, if the client prefers,
//! waits for what becomes of it.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;

use super::{
    intake,
    intake::TypedBody,
    operator::Principal,
    preferences::{REPLAYED, Wait},
    problem::{self, Code, Problem},
    shapes,
    state::App,
    surface::Surface,
    views::{AcceptedView, WithIgnored, payment_path},
};
use crate::{
    domain::Payment,
    ledger::PaymentRow,
    stream::{Appended, EntryPosition, ReceivedPayment},
    telemetry::{RequestTrace, SendResult, SendSpan},
};

const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Pauses between looks at the ledger while a client waits; they grow.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// A payment as a bank or an app reports it. Unknown fields are ignored and named in the
/// answer.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; intake reads it field by field")]
pub(super) struct PaymentBody {
    customer_id: shapes::CustomerIdText,
    payment_status: shapes::PaymentStatusText,
    transaction_amount: shapes::AmountText,
    transaction_date: shapes::TransactionDate,
    /// The same for every retry.
    transaction_reference: shapes::ReferenceText,
    /// The currency of the accounts, as ISO 4217 code; may be left out.
    currency: Option<shapes::CurrencyCode>,
}

/// Take a payment
///
/// 202 means that it is on disk and, where the deployment has it so, with replicas. The same reference with the same content is
/// the same payment: 200, with the same body. With `Prefer: wait=N` (at most 30
/// seconds) the answer is what became of it, if that is known in time.
#[utoipa::path(
    post,
    path = "/api/v1/payments",
    tag = "payments",
    request_body(content = PaymentBody, content_type = "application/json"),
    params(
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait N seconds for the outcome"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context"),
    ),
    responses(
        (status = 202, description = "On disk, and with as many replicas as the deployment asks for", body = WithIgnored<AcceptedView>,
         headers(("Location", description = "Where to see what became of it"))),
        (status = 200, description = "Taken before, or the outcome that was waited for", body = WithIgnored<PaymentRow>,
         headers(
             ("Location", description = "Where to see what became of it"),
             ("Idempotent-Replayed", description = "`true` if it was taken before"),
             ("Preference-Applied", description = "`wait=N` if the outcome was waited for"),
         )),
        (status = 409, description = "The reference is used by another payment"),
    )
)]
pub(super) async fn accept(
    State(app): State<App>,
    Extension(trace): Extension<RequestTrace>,
    caller: Principal,
    Wait(wait): Wait,
    body: TypedBody,
) -> Result<Response, Problem> {
    app.quotas.take(&caller, 1)?;
    let received_at = (app.gateway.clock)();
    let body = body.json()?;
    let (payment, ignored) = intake::payment(&body, &app.rules(&caller.source, received_at))?;
    let sending = app.gateway.signals.sending(&trace);
    let (trace, evidence) = (sending.context, caller.evidence(&body));
    let arrival = Arc::new(ReceivedPayment { payment, received_at, trace, evidence });
    let payment = &arrival.payment;
    let (place, replayed) = append(&app, &arrival, sending).await?;
    if !wait.is_zero()
        && let Some(_share) = app.shares.wait(caller.share(Surface::Api))
        && let Some(outcome) = Box::pin(wait_for(&app, payment, place, wait)).await?
    {
        let view = caller.sees(outcome);
        let mut response =
            (StatusCode::OK, axum::Json(WithIgnored { view, ignored })).into_response();
        let applied = format!("wait={}", wait.as_secs());
        if let Ok(applied) = HeaderValue::from_str(&applied) {
            response.headers_mut().insert(APPLIED, applied);
        }
        return Ok(mark(response, payment, replayed));
    }
    let status = if replayed { StatusCode::OK } else { StatusCode::ACCEPTED };
    let view = AcceptedView::new(payment, place);
    let view = WithIgnored { view, ignored };
    Ok(mark((status, axum::Json(view)).into_response(), payment, replayed))
}

/// Where a payment is on disk, and whether it was there before.
pub(super) async fn append(
    app: &App,
    arrival: &Arc<ReceivedPayment>,
    sending: SendSpan,
) -> Result<(EntryPosition, bool), Problem> {
    let appended = app.call(app.gateway.gathering.append(Arc::clone(arrival))).await;
    let appended = appended.map_err(Problem::of_append);
    let sent = sent(&arrival.payment, appended.as_ref());
    app.gateway.signals.sent([(sending, sent)].into_iter());
    match appended? {
        Appended::Accepted(place) => Ok((place, false)),
        Appended::Duplicate(place) => Ok((place, true)),
        Appended::Conflict(place) => Err(conflict(place.stream_id)),
    }
}

/// What became of a payment that was sent to the stream, for the signals.
pub(super) fn sent<'a>(
    payment: &'a Payment,
    appended: Result<&Appended, &Problem>,
) -> SendResult<'a> {
    let (outcome, place) = match appended {
        Ok(Appended::Accepted(place)) => ("accepted", Some(place)),
        Ok(Appended::Duplicate(place)) => ("duplicate", Some(place)),
        Ok(Appended::Conflict(place)) => ("conflict", Some(place)),
        Err(problem) => (problem::counted_as(problem.status()), None),
    };
    let place = place.map(|place| (place.partition, place.stream_id));
    SendResult { reference: &payment.reference, outcome, place }
}

pub(super) fn mark(mut response: Response, payment: &Payment, replayed: bool) -> Response {
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&payment_path(&payment.reference)) {
        headers.insert(header::LOCATION, location);
    }
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

pub(super) fn conflict(first: impl std::fmt::Display) -> Problem {
    let detail = format!(
        "another payment was taken under this reference (stream id {first}); use a new reference \
         for a new payment"
    );
    Problem::new(Code::ReferenceConflict, detail)
}

async fn wait_for(
    app: &App,
    payment: &Payment,
    place: EntryPosition,
    wait: Duration,
) -> Result<Option<PaymentRow>, Problem> {
    // When too many wait already, this one does not.
    let Ok(_waiter) = app.waiters.try_acquire() else { return Ok(None) };
    let end = Instant::now() + wait;
    let looks = ExponentialBuilder::default().with_min_delay(LOOK_MIN).with_max_delay(LOOK_MAX);
    for pause in looks.with_factor(1.5).without_max_times().build() {
        // While the ledger is away the outcome is simply not known yet.
        if let Ok(Some(found)) = outcome(app, payment, place).await {
            return found.map(Some);
        }
        if Instant::now() + pause >= end || app.stop.is_cancelled() {
            break;
        }
        sleep(pause).await;
    }
    Ok(None)
}

type Settlement = Result<PaymentRow, Problem>;

/// What the ledger made of the payment, if it has come so far.
async fn outcome(
    app: &App,
    payment: &Payment,
    place: EntryPosition,
) -> Result<Option<Settlement>, Problem> {
    let reader = &app.gateway.reader;
    let rows = app.ask(reader.payments(std::slice::from_ref(&payment.reference))).await?;
    let ours = |view: &PaymentRow| {
        view.payment_status.as_deref() == Some(payment.status.as_str()) && !view.is_dead()
    };
    let stream_id = place.stream_id.to_string();
    let buried =
        |view: &PaymentRow| view.is_dead() && view.stream_id.as_deref() == Some(&stream_id);
    let Some(view) = rows.into_iter().find(|view| ours(view) || buried(view)) else {
        return Ok(None);
    };
    if view.stream_id.as_deref() == Some(&stream_id) {
        return Ok(Some(Ok(view)));
    }
    // The ledger knew the reference from before: the same payment, or another.
    let conflicts = app.ask(reader.conflicts(&payment.reference)).await?;
    if conflicts.iter().any(|row| row.stream_id == stream_id) {
        return Ok(Some(Err(conflict(view.stream_id.unwrap_or_default()))));
    }
    let (partition, sequence) = (i32::from(place.partition), place.sequence);
    let settled = app.ask(reader.is_duplicate(partition, sequence, &stream_id)).await?;
    Ok(settled.then_some(Ok(view)))
}
