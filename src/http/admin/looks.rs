//! What operators look at: cases that need a decision, pending entries, the life of a
//! payment, findings and the audit log. Never changes anything.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    domain::Reference,
    http::{
        intake::{Numbers, Query, Segment},
        problem::{Code, Problem},
        state::App,
    },
    operations::{
        AuditEntry, AuditFilter, Checkup, Conflict, ConflictFilter, DeadLetter, LetterFilter, Life,
        NOTHING_KNOWN, ParkedCustomer, PendingFilter, PendingPage, PendingSummary, SuspenseFilter,
        SuspensePayment,
    },
};

/// The handler of a list, its page and its description.
macro_rules! list {
    (
        $(#[$doc:meta])*
        $name:ident = $method:ident: $path:tt, $filter:ident,
        $view:ident { $rows:ident: $row:ident, next: $next:ident }, $order:tt
    ) => {
        /// A page.
        #[derive(Serialize, ToSchema)]
        pub(super) struct $view {
            $rows: Vec<$row>,
            /// Cursor of the next page; null on the last.
            next: Option<$next>,
        }

        $(#[$doc])*
        #[utoipa::path(
            get,
            path = $path,
            tag = "operators",
            params($filter),
            responses((status = 200, description = $order, body = $view))
        )]
        pub(super) async fn $name(
            State(app): State<App>,
            Query(filter): Query<$filter>,
        ) -> Result<Json<$view>, Problem> {
            let page = app.gateway.operations.$method(&filter).await?;
            Ok(Json($view { $rows: page.rows, next: page.next.map(Into::into) }))
        }
    };
}

list!(
    /// List dead letters
    list_dead_letters = dead_letters: "/api/v1/admin/dead-letters", LetterFilter,
    DeadLettersView { dead_letters: DeadLetter, next: i64 }, "A page, the latest first"
);

list!(
    /// List payments in suspense
    suspense = suspense: "/api/v1/admin/suspense", SuspenseFilter,
    SuspenseView { payments: SuspensePayment, next: String }, "A page, the longest held first"
);

list!(
    /// List conflicts
    ///
    /// Payments that came under a used reference with other content, beside the one that
    /// has the reference.
    conflicts = conflicts: "/api/v1/admin/conflicts", ConflictFilter,
    ConflictsView { conflicts: Conflict, next: String }, "A page, the longest open first"
);

list!(
    /// List changes that were made by hand
    audit_log = audit_log: "/api/v1/admin/audit-log", AuditFilter,
    AuditView { changes: AuditEntry, next: i64 }, "A page, the latest first"
);

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
pub(super) async fn show_dead_letter(
    State(app): State<App>,
    Numbers(id): Numbers<i64>,
) -> Result<Json<DeadLetter>, Problem> {
    let missing = || Problem::new(Code::CaseNotFound, format!("there is no dead letter {id}"));
    app.gateway.operations.dead_letter(id).await?.map(Json).ok_or_else(missing)
}

/// Customers whose payments wait.
#[derive(Serialize, ToSchema)]
pub(super) struct ParkedView {
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
    responses((status = 200, description = "The longest parked first", body = ParkedView))
)]
pub(super) async fn parked(State(app): State<App>) -> Result<Json<ParkedView>, Problem> {
    Ok(Json(ParkedView { customers: app.gateway.operations.parked(None).await? }))
}

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
pub(super) async fn pending(
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
pub(super) async fn pending_summary(
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
pub(super) async fn life(
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
pub(super) async fn doctor(State(app): State<App>) -> Json<Checkup> {
    Json(app.gateway.operations.checkup().await)
}
