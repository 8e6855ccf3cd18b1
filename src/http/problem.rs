//! What a client sees when something is not as it should be: RFC 9457 problem
//! documents with a stable `code`. The only file that names a status code of a
//! failure. Causes go to the log and never to the client.

use std::any::Any;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};
use serde::Serialize;
use tracing::{error, warn};
use utoipa::ToSchema;

use crate::{circuit_breaker, domain::Invalid, ledger, operations, stream};

/// What went wrong with one field.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// JSON pointer to the field.
    #[schema(example = "/transaction_amount")]
    pub(super) pointer: String,
    /// Stable, for programs.
    #[schema(example = "too_many_decimals")]
    pub(super) code: &'static str,
    /// For people.
    #[schema(example = "must have at most two decimal places")]
    pub(super) detail: &'static str,
}

impl FieldError {
    pub(super) fn new(field: &str, invalid: Invalid) -> Self {
        Self { pointer: format!("/{field}"), code: invalid.code, detail: invalid.reason }
    }
}

/// A problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemDocument<'a> {
    /// Identifies the kind of problem.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:paystream:problem:[a-z_]+$")]
    kind: String,
    /// The kind in words.
    title: &'a str,
    /// The status of the response.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// Stable, for programs.
    code: &'a str,
    /// What happened and what to do.
    detail: &'a str,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    /// Names this request in our logs.
    request_id: &'a str,
}

#[derive(Clone, Debug)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    /// In seconds, where it is known better than by the status.
    retry_after: Option<u64>,
}

macro_rules! codes {
    ($($name:ident $text:literal $status:ident $title:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $(#[doc = $title] $name,)* }

        /// Every `code` a client can see, with its status and its title.
        pub const CODES: &[(&str, u16, &str)] =
            &[$(($text, StatusCode::$status.as_u16(), $title),)*];

        impl Code {
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            pub(crate) fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    MalformedJson "malformed_json" BAD_REQUEST "The body is not JSON",
    InvalidQuery "invalid_query" BAD_REQUEST "A query parameter is not valid",
    Unauthorized "unauthorized" UNAUTHORIZED "A valid bearer token is needed",
    BadSignature "bad_signature" UNAUTHORIZED "The signature is not valid",
    InsufficientScope "insufficient_scope" FORBIDDEN "The token does not open this",
    AddressNotAllowed "address_not_allowed" FORBIDDEN "The source does not send from this address",
    CrossOrigin "cross_origin" FORBIDDEN "The request comes from another site",
    RouteNotFound "route_not_found" NOT_FOUND "There is nothing at this path",
    PaymentNotFound "payment_not_found" NOT_FOUND "Nothing is known under this reference",
    CustomerNotFound "customer_not_found" NOT_FOUND "No customer has this id",
    CaseNotFound "case_not_found" NOT_FOUND "Nothing to act on has this id",
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "This path does not take this method",
    BodyTimeout "body_timeout" REQUEST_TIMEOUT "The body did not arrive in time",
    ReferenceConflict "reference_conflict" CONFLICT "The reference is used by another payment",
    WebhookConflict "webhook_conflict" CONFLICT "Another body came with this webhook-id",
    CustomerExists "customer_exists" CONFLICT "The customer exists with other terms",
    AlreadySettled "already_settled" CONFLICT "It is resolved already",
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The body is too large",
    BatchTooLarge "batch_too_large" PAYLOAD_TOO_LARGE "The batch has too many items",
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body has the wrong type or is compressed",
    InvalidPayment "invalid_payment" UNPROCESSABLE_ENTITY "The payment is not valid",
    InvalidCustomer "invalid_customer" UNPROCESSABLE_ENTITY "The customer is not valid",
    InvalidRequest "invalid_request" UNPROCESSABLE_ENTITY "The request is not valid",
    NotPossible "not_possible" UNPROCESSABLE_ENTITY "The action is not possible in the current state",
    RateLimited "rate_limited" TOO_MANY_REQUESTS "Too many requests, or payments of this source",
    Internal "internal" INTERNAL_SERVER_ERROR "Something went wrong on our side",
    BacklogFull "backlog_full" SERVICE_UNAVAILABLE "Too many payments are waiting",
    ReplicationUnconfirmed "replication_unconfirmed" SERVICE_UNAVAILABLE "Too few replicas have the payment",
    StreamUnavailable "stream_unavailable" SERVICE_UNAVAILABLE "Redis does not answer",
    TopologyResizing "topology_resizing" SERVICE_UNAVAILABLE "The number of partitions is being changed",
    StreamStateLost "stream_state_lost" SERVICE_UNAVAILABLE "Redis has lost state of a partition",
    SearchLimit "search_limit" SERVICE_UNAVAILABLE "Too many payments wait to be searched",
    LedgerUnavailable "ledger_unavailable" SERVICE_UNAVAILABLE "The ledger is not available",
    GatewayBusy "gateway_busy" SERVICE_UNAVAILABLE "Too many requests are under way",
    RequestTimeout "request_timeout" SERVICE_UNAVAILABLE "The request took too long",
}

pub(super) const REQUEST_ID: &str = "x-request-id";

/// Seconds after which a client may try again what was unavailable.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

const UNREPLICATED: &str = "too few replicas of Redis have confirmed the payment in time, so it is \
                            not known whether it counts; sending it again is safe";
const UNREACHABLE: &str = "Redis, where payments wait, does not answer; ask again later";
/// The detail of look-ups while state of Redis is being brought back.
const STATE_LOST: &str =
    "Redis has lost state of a partition; ask again when the partition has been brought back";

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    pub(super) fn invalid(code: Code, errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{} {}", one.pointer.trim_start_matches('/'), one.detail),
            many => format!("{} fields are not valid; see errors", many.len()),
        };
        Self { code, detail: detail.trim_start().to_owned(), errors, retry_after: None }
    }

    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// What `Retry-After` says, where it says something.
    fn wait(&self) -> Option<HeaderValue> {
        let is_away = self.status() == StatusCode::SERVICE_UNAVAILABLE;
        self.retry_after.map(HeaderValue::from).or(is_away.then_some(RETRY_AFTER_SECONDS))
    }

    /// Whether somebody is kept out, and not only told that something is wrong.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.code.status()
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// This page under the status of this problem.
    pub(crate) fn with_page(&self, html: String) -> Response {
        let mut response = (self.code.status(), Html(html)).into_response();
        if let Some(wait) = self.wait() {
            response.headers_mut().insert(header::RETRY_AFTER, wait);
        }
        response
    }

    pub(super) fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The same where a payment was to be taken.
    pub(super) fn of_append(mut self) -> Self {
        let detail = match &*self.detail {
            STATE_LOST => {
                "Redis has lost state of this customer's partition; nothing was taken. It can be \
                 sent again when the partition has been brought back"
            }
            UNREACHABLE => {
                "it is not known whether the payment was taken; sending it again is safe"
            }
            _ => return self,
        };
        detail.clone_into(&mut self.detail);
        self
    }

    fn resizing() -> Self {
        Self::new(
            Code::TopologyResizing,
            "the number of partitions is being changed; nothing was taken, send it again later",
        )
    }

    pub(super) fn document(&self, request_id: &str) -> Response {
        let status = self.code.status();
        let document = ProblemDocument {
            kind: format!("urn:paystream:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: status.as_u16(),
            code: self.code.as_str(),
            detail: &self.detail,
            errors: &self.errors,
            request_id,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.wait() {
            headers.insert(header::RETRY_AFTER, wait);
        }
        let mut asks =
            |how| headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(how));
        if self.code == Code::InsufficientScope {
            asks("Bearer error=\"insufficient_scope\"");
        } else if status == StatusCode::UNAUTHORIZED {
            asks("Bearer");
        }
        (status, headers, body).into_response()
    }
}

/// What a payment that was refused with this status is counted as.
pub(super) fn counted_as(status: StatusCode) -> &'static str {
    match status {
        StatusCode::CONFLICT => "conflict",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => "overloaded",
        status if status.is_client_error() => "invalid",
        _ => "error",
    }
}

impl IntoResponse for Problem {
    /// Without its document; that is written at the entrance, which knows the request.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<stream::Error> for Problem {
    fn from(error: stream::Error) -> Self {
        match error {
            stream::Error::BacklogFull(partition) => Self::new(
                Code::BacklogFull,
                format!(
                    "partition {partition} holds as many payments as it may; nothing was taken, \
                     send it again later"
                ),
            ),
            stream::Error::ShareFull(partition) => Self::new(
                Code::BacklogFull,
                format!(
                    "partition {partition} holds as many payments of this source as it may; \
                     nothing was taken, send it again later"
                ),
            ),
            stream::Error::MemoryFull(_) => Self::new(
                Code::BacklogFull,
                "the stream's memory is full; nothing was taken, send it again later",
            ),
            stream::Error::Resizing => Self::resizing(),
            stream::Error::StateLost(what) => {
                error!(what, "state is lost in Redis; payments of this partition are refused");
                Self::new(Code::StreamStateLost, STATE_LOST)
            }
            error @ (stream::Error::Outage(_)
            | stream::Error::Moving(_)
            | stream::Error::Unfit(_)
            | stream::Error::Deadline(_)) => {
                warn!(cause = cause(&error), "{error}");
                Self::new(Code::StreamUnavailable, UNREACHABLE)
            }
            error @ stream::Error::Unreplicated { .. } => {
                warn!("{error}");
                Self::new(Code::ReplicationUnconfirmed, UNREPLICATED)
            }
            error @ stream::Error::Forbidden(_) => {
                error!(cause = cause(&error), "{error}");
                Self::new(Code::StreamUnavailable, UNREACHABLE)
            }
            error @ stream::Error::SearchLimit(_) => Self::new(
                Code::SearchLimit,
                format!("{error}; ask again when the workers have settled some of them"),
            ),
            error @ (stream::Error::Fenced(_)
            | stream::Error::Gate(_)
            | stream::Error::Url(_)
            | stream::Error::Address(_)
            | stream::Error::Unexpected(_)
            | stream::Error::Shape(_)) => internal(&error),
        }
    }
}

impl From<operations::Error> for Problem {
    fn from(error: operations::Error) -> Self {
        match error {
            operations::Error::Stream(error) => error.into(),
            operations::Error::Ledger(error) => error.into(),
            error @ operations::Error::LedgerAway => {
                Self::new(Code::LedgerUnavailable, error.to_string())
            }
            operations::Error::Halfway(what, error) => Self::new(Self::from(*error).code, what),
            error @ operations::Error::Place(_) => Self::new(Code::InvalidQuery, error.to_string()),
        }
    }
}

impl From<operations::Refusal> for Problem {
    fn from(refusal: operations::Refusal) -> Self {
        let code = match &refusal {
            operations::Refusal::Missing(_) => Code::CaseNotFound,
            operations::Refusal::Settled(_) => Code::AlreadySettled,
            operations::Refusal::Impossible(_) => Code::NotPossible,
        };
        Self::new(code, refusal.sentence())
    }
}

impl From<circuit_breaker::Open> for Problem {
    fn from(open: circuit_breaker::Open) -> Self {
        let code = match open.dependency {
            circuit_breaker::REDIS => Code::StreamUnavailable,
            _ => Code::LedgerUnavailable,
        };
        Self::new(code, open.to_string())
    }
}

impl From<ledger::Error> for Problem {
    fn from(error: ledger::Error) -> Self {
        let busy = |detail| Self::new(Code::GatewayBusy, detail);
        match error {
            ledger::Error::Resized => Self::resizing(),
            ledger::Error::Busy => {
                busy("every connection to the ledger is in use; send it again later")
            }
            ledger::Error::Raced => busy(
                "others changed the same rows each time; nothing was changed, send it again later",
            ),
            ledger::Error::Outage(_)
            | ledger::Error::Unconfirmed(_)
            | ledger::Error::Locked(_)
            | ledger::Error::Slow(_)
            | ledger::Error::Forbidden(_)
            | ledger::Error::Pooler(_) => {
                warn!(cause = cause(&error), "{error}");
                Self::new(
                    Code::LedgerUnavailable,
                    "payments are still taken; what became of them can be asked again later",
                )
            }
            ledger::Error::Fenced
            | ledger::Error::Refused(_)
            | ledger::Error::Panicked(_)
            | ledger::Error::Damaged { .. }
            | ledger::Error::Unexpected(_)
            | ledger::Error::Corrupt(_)
            | ledger::Error::Schema(_) => internal(&error),
        }
    }
}

fn internal(error: &dyn std::error::Error) -> Problem {
    error!(cause = cause(error), "a request failed: {error}");
    Problem::new(Code::Internal, "it has been logged under this request id")
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// Completes an answer of the console: a problem becomes a page. Is told where the
/// request went, and by which id it is found in the log.
pub(crate) type Finish = fn(Response, Option<Problem>, &Uri, &str) -> Response;

pub(super) async fn no_route() -> Problem {
    Problem::new(Code::RouteNotFound, "see /docs for what there is")
}

pub(super) async fn no_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "see /docs for what there is")
}

/// A handler panicked; a bug, and only this request's.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
    error!(message, "a request panicked");
    Problem::new(Code::Internal, "it has been logged under this request id").into_response()
}
