//! Seeding customers, and everything at a glance.

use std::time::{Duration, Instant};

use axum::{Json, extract::State};
use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::{
    intake,
    operator::Principal,
    problem::{Code, FieldError, Problem},
    shapes,
    state::App,
};
use crate::{domain::Invalid, ledger::LedgerTotals, operations::PartitionLook};

/// Customers that one request may seed; `paystream seed` knows no bound.
const SEED_MAX: u32 = 200_000;

/// How many customers to seed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SeedBody {
    #[schema(minimum = 1, maximum = 200_000, example = 500)]
    count: u32,
    #[schema(value_type = Option<shapes::Actor>)]
    actor: Option<String>,
    #[schema(value_type = Option<shapes::Reason>)]
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct SeedView {
    requested: u32,
    /// Customers that are new.
    created: u64,
    /// Customers that were there.
    existing: u64,
    /// Payments that waited in suspense for them and are applied now.
    released: u64,
}

/// Seed customers GIG00001, GIG00002, …
///
/// Each with an asset value of 1,000,000 over 50 weeks. Seeding again adds only
/// those that are missing.
#[utoipa::path(
    post,
    path = "/api/v1/admin/seed-customers",
    tag = "operators",
    request_body = SeedBody,
    responses(
        (status = 200, description = "They exist", body = SeedView),
    )
)]
pub(in crate::http) async fn seed_customers(
    State(app): State<App>,
    operator: Principal,
    intake::Json(body): intake::Json<SeedBody>,
) -> Result<Json<SeedView>, Problem> {
    let SeedBody { count, actor, reason } = body;
    let by = operator.sign_or(actor.as_deref(), reason.as_deref(), "seeded by the API")?;
    if !(1..=SEED_MAX).contains(&count) {
        let invalid = Invalid { code: "out_of_range", reason: "must be from 1 to 200000" };
        let errors = vec![FieldError::new("count", invalid)];
        return Err(Problem::invalid(Code::InvalidRequest, errors));
    }
    let opening = app.ask(app.gateway.registrar.seed(count, &by, |_| ())).await?;
    Ok(Json(SeedView {
        requested: count,
        created: opening.opened,
        existing: u64::from(count) - opening.opened,
        released: opening.released,
    }))
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct StatsView {
    totals: LedgerTotals,
    customers: CustomerTotalsView,
    /// Payments settled per second, over the last minute.
    settled_per_second: f64,
    /// Entries that wait in the streams, all partitions together.
    backlog: BacklogView,
    partitions: Vec<PartitionLook>,
}

#[derive(Serialize, ToSchema)]
struct CustomerTotalsView {
    total: i64,
    /// With nothing left to pay.
    completed: i64,
    /// `completed` of `total`, 0 to 1.
    completion_rate: f64,
}

#[derive(Serialize, ToSchema)]
struct BacklogView {
    lag: i64,
    pending: i64,
}

/// Show everything at a glance
#[utoipa::path(
    get,
    path = "/api/v1/admin/stats",
    tag = "operators",
    responses(
        (status = 200, description = "Totals and partitions", body = StatsView),
    )
)]
pub(in crate::http) async fn stats(State(app): State<App>) -> Result<Json<StatsView>, Problem> {
    let gateway = &app.gateway;
    let totals = app.ask(gateway.reader.totals()).await?;
    // Whoever waits for a backlog to end must not be told of an earlier one.
    let snapshot = gateway.operations.snapshot(Duration::ZERO).await;
    let (Some(lag), Some(pending)) = (snapshot.figures.lag, snapshot.figures.pending) else {
        let detail = snapshot.redis_trouble.as_deref().unwrap_or("Redis does not answer");
        return Err(Problem::new(Code::StreamUnavailable, detail));
    };
    let thousandths = app.rate.thousandths_per_second(Instant::now(), totals.payments);
    let completion_rate = ratio(totals.customers_completed, totals.customers);
    Ok(Json(StatsView {
        customers: CustomerTotalsView {
            total: totals.customers,
            completed: totals.customers_completed,
            completion_rate: number(completion_rate.round_dp(4)),
        },
        totals,
        settled_per_second: number(Decimal::new(thousandths, 3)),
        backlog: BacklogView { lag, pending },
        partitions: snapshot.partitions.clone(),
    }))
}

fn ratio(part: i64, whole: i64) -> Decimal {
    Decimal::from(part).checked_div(whole.into()).unwrap_or_default()
}

/// For figures that are looked at; money stays a string.
fn number(value: Decimal) -> f64 {
    value.to_f64().unwrap_or_default()
}
