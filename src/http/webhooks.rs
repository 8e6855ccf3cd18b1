//! Takes signed webhooks: one payment each, in the words of its source. Never takes one that is
//! not signed, and keeps what was signed with the payment.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{
    access, intake,
    intake::{Segment, TypedBody},
    operator::Principal,
    payments::{self, PaymentBody},
    peer::Peer,
    problem::{Code, Problem},
    state::App,
    surface::Surface,
    views::{AcceptedView, WithIgnored},
};
use crate::{
    callers::{Webhook, WebhookRefused},
    stream::ReceivedPayment,
    telemetry::RequestTrace,
};

/// Take a payment from a webhook
///
/// Signed after [Standard Webhooks](https://www.standardwebhooks.com) with a secret or key of the source,
/// which stands for a token. The body names the payment's parts as the settings of the source
/// say; without such settings, as the body of `POST /api/v1/payments` does. The same id with the
/// same body is answered as before; the same id with another body is refused with 409.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{source}",
    tag = "payments",
    request_body(content = PaymentBody, content_type = "application/json"),
    params(
        ("webhook-id" = String, Header, description = "The same for every attempt"),
        ("webhook-timestamp" = String, Header, description = "When this attempt was signed, in seconds since 1970"),
        ("webhook-signature" = String, Header, description = "`v1,` and the HMAC-SHA256 of id, timestamp and body, joined by dots, in base64, or `v1a,` and the Ed25519 signature of the same; several with spaces between"),
    ),
    responses(
        (status = 202, description = "On disk, and with as many replicas as the deployment asks for", body = WithIgnored<AcceptedView>,
         headers(
             ("Location", description = "Where to see what became of it"),
             ("Idempotent-Replayed", description = "`true` if it was taken before"),
         )),
        (status = 409, description = "The id or the reference is used by another payment"),
    )
)]
pub(super) async fn take(
    State(app): State<App>,
    Extension(trace): Extension<RequestTrace>,
    peer: Option<Extension<Peer>>,
    Segment(source): Segment,
    headers: HeaderMap,
    body: TypedBody,
) -> Result<Response, Problem> {
    let received_at = (app.gateway.clock)();
    let body = body.json()?;
    let text = std::str::from_utf8(&body);
    let text = text.map_err(|_| Problem::new(Code::MalformedJson, "the body is not UTF-8"))?;
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| unsigned(format!("send the header {name}")))
    };
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let signature = header("webhook-signature")?;
    let hook = Webhook { id, timestamp, signature, body: text };
    // Whoever guesses names learns nothing: an unknown source has no secret.
    let rules = app.gateway.sources.find(&source);
    let known = rules.as_ref().and_then(|rules| Some((rules, rules.webhooks.as_ref()?)));
    let keys = known.map_or(&[][..], |(_, webhooks)| &webhooks.keys);
    let evidence = hook.check(keys, received_at).map_err(unsigned)?;
    let (rules, webhooks) = known.ok_or_else(|| unsigned(WebhookRefused::BadSignature))?;
    let caller = Principal::of_source(&rules.source);
    access::admit_from(Some(rules), peer.map(|Extension(peer)| peer))?;
    app.quotas.take(&caller, 1)?;
    let _share = app.shares.take(caller.share(Surface::Webhooks), false).await?;
    let rules = app.rules(&caller.source, received_at);
    let payment = intake::mapped_payment(&body, &webhooks.mapping, &rules)?;
    let digest: [u8; 32] = Sha256::digest(&body).into();
    let producer = &app.gateway.producer;
    let claimed = app.call(producer.claim_webhook(&caller.source, id, &digest)).await;
    if !claimed.map_err(Problem::of_append)? {
        let detail = "nothing was taken; use a new webhook-id for a new payment";
        return Err(Problem::new(Code::WebhookConflict, detail));
    }
    let sending = app.gateway.signals.sending(&trace);
    let (context, evidence) = (sending.context, Some(Arc::new(evidence)));
    let arrival = ReceivedPayment { payment, received_at, trace: context, evidence };
    let arrival = Arc::new(arrival);
    let (place, replayed) = payments::append(&app, &arrival, sending).await?;
    let view = AcceptedView::new(&arrival.payment, place);
    let view = axum::Json(WithIgnored { view, ignored: Vec::new() });
    let response = (StatusCode::ACCEPTED, view).into_response();
    Ok(payments::mark(response, &arrival.payment, replayed))
}

fn unsigned(why: impl ToString) -> Problem {
    Problem::new(Code::BadSignature, why.to_string())
}
