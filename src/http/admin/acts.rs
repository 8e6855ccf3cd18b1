//! What operators change: each act names its object in the path, and its body says who,
//! why and how. Done twice or too late, it is refused with a sentence.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    domain::{CustomerId, Reference},
    http::{
        intake::{self, Numbers, Segment},
        operator::{Principal, SignatureBody},
        problem::{Code, FieldError, Problem},
        shapes,
        state::App,
    },
    operations::{
        Act, AssignReport, ConflictName, LetterFilter, LetterReport, Mend, MendSummary, moment,
    },
};

/// The handler of an act and its description: the object in its path, its body, its
/// answer, why it may be refused, and the act.
macro_rules! act {
    (
        $(#[$doc:meta])*
        $name:ident: $path:tt ($object:ident: $reads:ident $(<$kind:ty>)?), $body:ident: $form:ident,
        $answer:ident $done:tt, [$($status:tt $why:tt),*],
        $app:ident => $act:expr
    ) => {
        $(#[$doc])*
        #[utoipa::path(
            post,
            path = $path,
            tag = "operators",
            request_body = $form,
            responses(
                (status = 200, description = $done, body = $answer),
                $((status = $status, description = $why),)*
            )
        )]
        pub(super) async fn $name(
            State($app): State<App>,
            $reads($object): $reads $(<$kind>)?,
            operator: Principal,
            intake::Json($body): intake::Json<$form>,
        ) -> Result<Json<Value>, Problem> {
            let by = operator.sign($body.actor.as_deref(), &$body.reason)?;
            let act: Act = $act;
            Ok(Json($app.gateway.operations.perform(&act, &by).await??.document))
        }
    };
}

/// A change was made.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what an answer has")]
pub(super) struct DoneView {
    /// What was done, as a sentence.
    done: String,
}

/// How a dead letter is redriven.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RedriveBody {
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    reason: String,
    /// Only say what would come of it.
    #[serde(default)]
    dry_run: bool,
}

/// How a partition or a parked customer is released.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForcedBody {
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    reason: String,
    /// A partition: end its owner's epoch at once; the ledger refuses the owner's batch
    /// under way. Parked payments: settle them before the open dead letter that they
    /// wait for.
    #[serde(default)]
    force: bool,
}

/// Whose a payment in suspense is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AssignBody {
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    reason: String,
    /// The customer whose payment it is.
    #[schema(value_type = shapes::CustomerIdText)]
    customer_id: String,
}

act!(
    /// Redrive a dead letter
    ///
    /// Settles it now, in one transaction. Doing it twice is refused.
    redrive_dead_letter: "/api/v1/admin/dead-letters/{id}/redrive" (id: Numbers<i64>),
    body: RedriveBody,
    LetterReport "It is settled, or would be",
    [
        404 "There is no such dead letter",
        409 "It is resolved already",
        422 "It cannot be settled still"
    ],
    app => Act::Redrive { id, dry_run: body.dry_run }
);

act!(
    /// Discard a dead letter
    ///
    /// It is not settled any more and stays findable; the payment is accepted again when
    /// the bank sends it again.
    discard_dead_letter: "/api/v1/admin/dead-letters/{id}/discard" (id: Numbers<i64>),
    body: SignatureBody,
    DoneView "It is discarded",
    [404 "There is no such dead letter", 409 "It is resolved already"],
    app => Act::Discard { id }
);

act!(
    /// Assign a payment in suspense to its customer
    ///
    /// Applies it to that account, once.
    assign: "/api/v1/admin/suspense/{reference}/assign" (reference: Segment),
    body: AssignBody,
    AssignReport "It is applied",
    [
        404 "It is not in suspense",
        409 "It is resolved already",
        422 "No such customer, or not valid"
    ],
    app => Act::Assign { reference: in_suspense(reference)?, customer: Some(customer(body.customer_id)?) }
);

act!(
    /// Mark a payment in suspense for refund
    ///
    /// It stays in suspense and is not applied any more.
    mark_for_refund: "/api/v1/admin/suspense/{reference}/refund-mark" (reference: Segment),
    body: SignatureBody,
    DoneView "It is marked",
    [404 "It is not in suspense", 409 "It is resolved already"],
    app => Act::MarkForRefund { reference: in_suspense(reference)? }
);

act!(
    /// Resolve a conflict
    ///
    /// Notes that it was dealt with. It never has an effect.
    resolve_conflict: "/api/v1/admin/conflicts/{partition}/{sequence}/resolve"
        (conflict: Numbers<(u16, i64)>),
    body: SignatureBody,
    DoneView "It is resolved",
    [404 "There is no such conflict", 409 "It is resolved already"],
    app => Act::Resolve { conflict: ConflictName { partition: conflict.0, sequence: conflict.1 } }
);

act!(
    /// Release a parked customer
    ///
    /// Settles what waits, in its order, and parks no more. Refused while a dead letter
    /// that it waits for is open, unless forced: it would be settled before it.
    release_parked: "/api/v1/admin/parked/{customer_id}/release" (customer: Segment),
    body: ForcedBody,
    DoneView "They are settled",
    [
        404 "No such customer is parked",
        422 "The request is not valid, or a dead letter that they wait for is open"
    ],
    app => Act::Unpark { customer: parked(customer)?, force: body.force }
);

act!(
    /// Make an owner hand a partition over
    ///
    /// Its owner finishes the batch under way and releases the partition. The next owner
    /// acquires it under a new epoch and first settles what is pending.
    release_partition: "/api/v1/admin/partitions/{partition}/release" (partition: Numbers<u32>),
    body: ForcedBody,
    DoneView "The owner was asked, or its epoch has ended",
    [404 "There is no such partition", 409 "It was asked already, or has no owner"],
    app => match u16::try_from(partition) {
        Ok(partition) => Act::Release { partition, force: body.force, wait: false },
        Err(_) => {
            let detail = app.gateway.operations.no_partition(partition);
            return Err(Problem::new(Code::CaseNotFound, detail));
        }
    }
);

fn in_suspense(reference: String) -> Result<Reference, Problem> {
    let missing = "no payment of this reference is in suspense";
    Reference::parse(reference).map_err(|_| Problem::new(Code::CaseNotFound, missing))
}

fn parked(customer: String) -> Result<CustomerId, Problem> {
    let missing = "no customer of this id is parked";
    CustomerId::parse(customer).map_err(|_| Problem::new(Code::CaseNotFound, missing))
}

fn customer(id: String) -> Result<CustomerId, Problem> {
    CustomerId::parse(id).map_err(|invalid| {
        let errors = vec![FieldError::new("customer_id", invalid)];
        Problem::invalid(Code::InvalidRequest, errors)
    })
}

/// Many dead letters, and what is to become of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ManyBody {
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    reason: String,
    /// Only dead letters of this reference.
    #[serde(default, deserialize_with = "intake::text")]
    #[schema(value_type = Option<shapes::Text>)]
    reference: Option<String>,
    /// Only dead letters of this class of reason.
    #[serde(default, deserialize_with = "intake::text")]
    #[schema(value_type = Option<shapes::Text>)]
    code: Option<String>,
    /// Only dead letters of this customer.
    #[serde(default, deserialize_with = "intake::text")]
    #[schema(value_type = Option<shapes::Text>)]
    customer: Option<String>,
    /// Only payments that became dead letters at this time or later.
    #[serde(default, deserialize_with = "moment")]
    since: Option<DateTime<Utc>>,
    /// Only payments that became dead letters before this time.
    #[serde(default, deserialize_with = "moment")]
    until: Option<DateTime<Utc>>,
    /// All open dead letters: needed where nothing else narrows them down.
    #[serde(default)]
    all: bool,
    /// Only say what would come of it.
    #[serde(default)]
    dry_run: bool,
}

/// Redrive many dead letters
///
/// The oldest first, each in a transaction of its own; at most 1,000 at once.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dead-letters/redrive",
    tag = "operators",
    request_body = ManyBody,
    responses((status = 200, description = "What came of each", body = MendSummary))
)]
pub(super) async fn redrive_dead_letters(
    State(app): State<App>,
    operator: Principal,
    intake::Json(body): intake::Json<ManyBody>,
) -> Result<Json<MendSummary>, Problem> {
    mend(&app, &operator, Mend::Redrive, body).await
}

/// Discard many dead letters
///
/// Each in a transaction of its own; at most 1,000 at once.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dead-letters/discard",
    tag = "operators",
    request_body = ManyBody,
    responses((status = 200, description = "What came of each", body = MendSummary))
)]
pub(super) async fn discard_dead_letters(
    State(app): State<App>,
    operator: Principal,
    intake::Json(body): intake::Json<ManyBody>,
) -> Result<Json<MendSummary>, Problem> {
    mend(&app, &operator, Mend::Discard, body).await
}

async fn mend(
    app: &App,
    operator: &Principal,
    mend: Mend,
    body: ManyBody,
) -> Result<Json<MendSummary>, Problem> {
    let by = operator.sign(body.actor.as_deref(), &body.reason)?;
    let ManyBody { reference, code, customer, since, until, all, dry_run, .. } = body;
    let filter = LetterFilter { reference, code, customer, since, until, ..Default::default() };
    if filter == LetterFilter::default() && !all {
        let detail = "name a reference, code, customer, since or until, or say \"all\": true";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    Ok(Json(app.gateway.operations.mend_all(mend, &filter, &by, dry_run).await?))
}
