//! Dead letters: found, sent on their way again, discarded; one or many.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{DoneView, perform};
use crate::{
    http::{
        intake::{self, Numbers, Query},
        operator::{Operator, SignatureBody},
        problem::{Code, Problem},
        shapes,
        state::App,
    },
    operations::{Act, DeadLetter, LetterFilter, LetterReport, Mend, MendSummary, Page, moment},
};

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct DeadLettersView {
    /// The latest first.
    dead_letters: Vec<DeadLetter>,
    /// Where the next page begins; nothing on the last.
    next: Option<i64>,
}

/// List dead letters
#[utoipa::path(
    get,
    path = "/api/v1/admin/dead-letters",
    tag = "operators",
    params(LetterFilter),
    responses(
        (status = 200, description = "A page, the latest first", body = DeadLettersView),
    )
)]
pub(in crate::http) async fn list_dead_letters(
    State(app): State<App>,
    Query(filter): Query<LetterFilter>,
) -> Result<Json<DeadLettersView>, Problem> {
    let Page { rows: dead_letters, next } = app.gateway.operations.dead_letters(&filter).await?;
    Ok(Json(DeadLettersView { dead_letters, next }))
}

/// Show a dead letter
#[utoipa::path(
    get,
    path = "/api/v1/admin/dead-letters/{id}",
    tag = "operators",
    responses(
        (status = 200, description = "All that is known of it", body = DeadLetter),
        (status = 404, description = "There is no such dead letter"),
    )
)]
pub(in crate::http) async fn show_dead_letter(
    State(app): State<App>,
    Numbers(id): Numbers<i64>,
) -> Result<Json<DeadLetter>, Problem> {
    let found = app.gateway.operations.dead_letter(id).await?;
    let missing = || Problem::new(Code::CaseNotFound, format!("there is no dead letter {id}"));
    found.map(Json).ok_or_else(missing)
}

/// How a dead letter is to be redriven.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RedriveBody {
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    reason: String,
    /// Only say what would come of it.
    #[serde(default)]
    dry_run: bool,
}

/// Redrive a dead letter
///
/// Settles it now, in one transaction. Doing it twice is refused.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dead-letters/{id}/redrive",
    tag = "operators",
    request_body = RedriveBody,
    responses(
        (status = 200, description = "It is settled, or would be", body = LetterReport),
        (status = 404, description = "There is no such dead letter"),
        (status = 409, description = "It is resolved already"),
        (status = 422, description = "It cannot be settled still"),
    )
)]
pub(in crate::http) async fn redrive_dead_letter(
    State(app): State<App>,
    Numbers(id): Numbers<i64>,
    operator: Operator,
    intake::Json(body): intake::Json<RedriveBody>,
) -> Result<Json<Value>, Problem> {
    let act = Act::Redrive { id, dry_run: body.dry_run };
    perform(&app, &operator, (body.actor.as_deref(), &body.reason), act).await
}

/// Discard a dead letter
///
/// Notes that it is not to be settled. It stays where it is and can be found; the
/// payment is accepted again when the bank sends it again.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dead-letters/{id}/discard",
    tag = "operators",
    request_body = SignatureBody,
    responses(
        (status = 200, description = "It is discarded", body = DoneView),
        (status = 404, description = "There is no such dead letter"),
        (status = 409, description = "It is resolved already"),
    )
)]
pub(in crate::http) async fn discard_dead_letter(
    State(app): State<App>,
    Numbers(id): Numbers<i64>,
    operator: Operator,
    intake::Json(body): intake::Json<SignatureBody>,
) -> Result<Json<Value>, Problem> {
    perform(&app, &operator, (body.actor.as_deref(), &body.reason), Act::Discard { id }).await
}

/// Many dead letters, and what is to become of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ManyBody {
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    reason: String,
    /// Those of this reference.
    #[serde(default, deserialize_with = "intake::text")]
    #[schema(value_type = Option<shapes::Text>)]
    reference: Option<String>,
    /// Those of this class of reason.
    #[serde(default, deserialize_with = "intake::text")]
    #[schema(value_type = Option<shapes::Text>)]
    code: Option<String>,
    /// Those of this customer.
    #[serde(default, deserialize_with = "intake::text")]
    #[schema(value_type = Option<shapes::Text>)]
    customer: Option<String>,
    /// Those that died then or later.
    #[serde(default, deserialize_with = "moment")]
    since: Option<DateTime<Utc>>,
    /// Those that died before then.
    #[serde(default, deserialize_with = "moment")]
    until: Option<DateTime<Utc>>,
    /// All there are: needed where nothing else narrows them down.
    #[serde(default)]
    all: bool,
    /// Only say what would come of it.
    #[serde(default)]
    dry_run: bool,
}

impl ManyBody {
    fn filter(self) -> Result<LetterFilter, Problem> {
        let Self { reference, code, customer, since, until, all, .. } = self;
        let named = [&reference, &code, &customer].into_iter().any(Option::is_some);
        if !(named || since.is_some() || until.is_some() || all) {
            let detail = "name a reference, code, customer, since or until, or say \"all\": true";
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
        let filter = LetterFilter { reference, code, customer, since, until, ..Default::default() };
        Ok(filter)
    }
}

/// Redrive many dead letters
///
/// The oldest first, each in a transaction of its own; at most 1,000 at once.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dead-letters/redrive",
    tag = "operators",
    request_body = ManyBody,
    responses(
        (status = 200, description = "What came of each", body = MendSummary),
    )
)]
pub(in crate::http) async fn redrive_dead_letters(
    State(app): State<App>,
    operator: Operator,
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
    responses(
        (status = 200, description = "What came of each", body = MendSummary),
    )
)]
pub(in crate::http) async fn discard_dead_letters(
    State(app): State<App>,
    operator: Operator,
    intake::Json(body): intake::Json<ManyBody>,
) -> Result<Json<MendSummary>, Problem> {
    mend(&app, &operator, Mend::Discard, body).await
}

async fn mend(
    app: &App,
    operator: &Operator,
    mend: Mend,
    body: ManyBody,
) -> Result<Json<MendSummary>, Problem> {
    let signature = operator.sign(body.actor.as_deref(), &body.reason)?;
    let (dry_run, filter) = (body.dry_run, body.filter()?);
    let mending = app.gateway.operations.mend_all(mend, &filter, &signature, dry_run);
    Ok(Json(mending.await?))
}
