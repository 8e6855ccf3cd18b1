//! Accepts many payments at once: each item by itself, in order.

use axum::{Extension, Json, extract::State};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::coop::consume_budget;
use utoipa::ToSchema;

use super::{
    intake,
    intake::{MediaType, TypedBody},
    operator::Principal,
    payments::{self, PaymentBody},
    problem::{self, Code, FieldError, Problem},
    state::App,
};
use crate::{
    stream::{self, Appended, ReceivedPayment},
    telemetry::RequestTrace,
};

const ITEMS_MAX: usize = 10_000;

#[derive(Default, Serialize, ToSchema)]
pub(super) struct BatchView {
    /// Items that are on disk now.
    accepted: usize,
    /// Items that were taken before.
    replayed: usize,
    /// Items that were not taken.
    refused: usize,
    /// One for each item, in order.
    results: Vec<ItemView>,
}

/// What became of one item.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct ItemView {
    /// Place in the batch, from 0.
    index: usize,
    #[schema(pattern = "^(accepted|replayed|refused)$")]
    status: &'static str,
    #[serde(skip)]
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<String>,
    /// Why it was refused: the code that a single payment would be answered
    /// with.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// Fields that are not known here, and had no effect; the first 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignored: Vec<String>,
}

/// Take many payments
///
/// A JSON array, or one JSON object a line (`application/x-ndjson`); at most
/// 10,000 items and 4 MiB. Each item is taken or refused by itself.
#[utoipa::path(
    post,
    path = "/api/v1/payments/batch",
    tag = "payments",
    request_body(content(
        (Vec<PaymentBody> = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 200, description = "One result for each item", body = BatchView),
        (status = 413, description = "Too many items, or too large"),
        (status = 422, description = "It is JSON, but no array"),
        (status = 503, description = "None could be taken now; sending all again is safe"),
    )
)]
pub(super) async fn accept_batch(
    State(app): State<App>,
    Extension(trace): Extension<RequestTrace>,
    caller: Principal,
    body: TypedBody,
) -> Result<Json<BatchView>, Problem> {
    refuse_signed(&caller)?;
    let signals = &app.gateway.signals;
    let items = split(&body)?;
    app.quotas.take(&caller, items.len())?;
    let received_at = (app.gateway.clock)();
    let mut sendings = Vec::with_capacity(items.len());
    let mut arrivals = Vec::with_capacity(items.len());
    let mut results: Vec<Result<Vec<String>, Problem>> = Vec::with_capacity(items.len());
    let rules = app.rules(&caller.source, received_at);
    for item in items {
        // Others must not wait for all of a large batch.
        consume_budget().await;
        let payment = intake::payment(item, &rules);
        results.push(payment.map(|(payment, ignored)| {
            let sending = signals.sending(&trace);
            sendings.push(sending);
            let (trace, evidence) = (sending.context, None);
            arrivals.push(ReceivedPayment { payment, received_at, trace, evidence });
            ignored
        }));
    }
    let appending = async {
        let mut appended = app.gateway.producer.append_all(&arrivals).await;
        let all_away = appended.iter().all(is_outage);
        match appended.pop_if(|_| all_away) {
            Some(Err(error)) => Err(error),
            _ => Ok(appended),
        }
    };
    let appended = app.call(appending).await.map_err(Problem::of_append);
    let appended: Result<Vec<_>, _> = appended.map(|appended| {
        appended
            .into_iter()
            .map(|result| result.map_err(|error| Problem::from(error).of_append()))
            .collect()
    });
    let result = |index: usize| match &appended {
        Ok(results) => results[index].as_ref(),
        Err(problem) => Err(problem),
    };
    let sent = arrivals.iter().enumerate();
    let sent = sent.map(|(index, arrival)| payments::sent(&arrival.payment, result(index)));
    signals.sent(sendings.into_iter().zip(sent));
    if let Err(problem) = &appended {
        // None was taken, so there is no answer for each.
        signals.received(problem::counted_as(problem.status()), arrivals.len());
    }
    let mut appended = arrivals.into_iter().zip(appended?);
    let mut view = BatchView::default();
    for (index, read) in results.into_iter().enumerate() {
        let item = match read {
            Err(problem) => ItemView::refused(index, None, &problem),
            Ok(ignored) => match appended.next() {
                Some((arrival, result)) => {
                    ItemView { ignored, ..ItemView::appended(index, &arrival, result) }
                }
                None => break,
            },
        };
        signals.received(item.outcome, 1);
        match item.status {
            "accepted" => view.accepted += 1,
            "replayed" => view.replayed += 1,
            _ => view.refused += 1,
        }
        view.results.push(item);
    }
    Ok(Json(view))
}

/// What was signed is kept with a payment, and a batch is too large for that.
fn refuse_signed(caller: &Principal) -> Result<(), Problem> {
    if !caller.is_signed() {
        return Ok(());
    }
    let detail = "a signed request carries one payment, so that what was signed is kept with it: \
                  send each to /api/v1/payments";
    Err(Problem::new(Code::NotPossible, detail))
}

impl ItemView {
    fn appended(
        index: usize,
        arrival: &ReceivedPayment,
        result: Result<Appended, Problem>,
    ) -> Self {
        let reference = arrival.payment.reference.given().to_owned();
        let (status, outcome, place) = match result {
            Ok(Appended::Accepted(place)) => ("accepted", "accepted", place),
            Ok(Appended::Duplicate(place)) => ("replayed", "duplicate", place),
            Ok(Appended::Conflict(place)) => {
                return Self::refused(index, Some(reference), &payments::conflict(place.stream_id));
            }
            Err(error) => return Self::refused(index, Some(reference), &error),
        };
        Self {
            index,
            status,
            outcome,
            transaction_reference: Some(reference),
            partition: Some(place.partition),
            sequence: Some(place.sequence),
            stream_id: Some(place.stream_id.to_string()),
            ..Self::default()
        }
    }

    fn refused(index: usize, reference: Option<String>, problem: &Problem) -> Self {
        Self {
            index,
            status: "refused",
            outcome: problem::counted_as(problem.status()),
            transaction_reference: reference,
            code: Some(problem.code().as_str()),
            detail: Some(problem.detail().to_owned()),
            errors: problem.errors().to_vec(),
            ..Self::default()
        }
    }
}

/// The items of a batch as they stand in its text.
pub(super) fn split(body: &TypedBody) -> Result<Vec<&[u8]>, Problem> {
    let items: Vec<&[u8]> = match body.media_type {
        MediaType::Json => {
            let items: Vec<&RawValue> = intake::parse(&body.bytes, Code::InvalidRequest)?;
            items.into_iter().map(|item| item.get().as_bytes()).collect()
        }
        MediaType::JsonLines => {
            let lines = body.bytes.split(|byte| *byte == b'\n');
            lines.filter(|line| !line.trim_ascii().is_empty()).collect()
        }
    };
    if items.len() > ITEMS_MAX {
        let detail =
            format!("{} items were sent, at most {ITEMS_MAX} are taken; none was", items.len());
        return Err(Problem::new(Code::BatchTooLarge, detail));
    }
    Ok(items)
}

fn is_outage(result: &Result<Appended, stream::Error>) -> bool {
    result.as_ref().is_err_and(stream::Error::is_outage)
}
