//! Seeding customers, and everything at a glance.

use std::{collections::HashMap, time::Instant};

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::{
    intake,
    operator::Operator,
    problem::{Code, FieldError, Problem},
    shapes,
    state::App,
    views::money,
};
use crate::{
    domain::Invalid,
    ledger::{CursorRow, Totals},
    operations::Money,
    stream::Depth,
};

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

/// What seeding did.
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
    operator: Operator,
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

/// Everything at a glance.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct StatsView {
    totals: TotalsView,
    customers: CustomerTotalsView,
    /// Payments settled per second, over the last minute.
    settled_per_second: f64,
    /// Entries that wait in the streams, all partitions together.
    backlog: BacklogView,
    partitions: Vec<PartitionView>,
}

/// Sums over all payments.
#[derive(Serialize, ToSchema)]
struct TotalsView {
    /// All that the ledger took: applied, recorded, rejected and suspense.
    payments: i64,
    applied: i64,
    recorded: i64,
    rejected: i64,
    suspense: i64,
    dead_lettered: i64,
    /// Waits behind dead letters of its customers.
    parked: i64,
    /// Came under a used reference with other content.
    conflicts: i64,
    /// Came again after the stream had forgotten them.
    duplicates: i64,
    /// The whole amount of applied payments.
    #[schema(value_type = Money)]
    amount: String,
    #[schema(value_type = Money)]
    average_amount: String,
}

/// Sums over all customers.
#[derive(Serialize, ToSchema)]
struct CustomerTotalsView {
    total: i64,
    /// With nothing left to pay.
    completed: i64,
    /// `completed` of `total`, 0 to 1.
    completion_rate: f64,
}

/// How much waits.
#[derive(Serialize, ToSchema)]
struct BacklogView {
    lag: i64,
    pending: i64,
}

/// One partition at a glance.
#[derive(Serialize, ToSchema)]
struct PartitionView {
    partition: u16,
    owner: Option<String>,
    /// How long the owner has been silent; it beats five times within its lease.
    owner_silent_seconds: Option<i64>,
    epoch: i64,
    /// When it last changed hands.
    moved_at: Option<DateTime<Utc>>,
    /// The worker that has asked the owner to hand it over.
    draining_to: Option<String>,
    /// The highest sequence the ledger has.
    last_sequence: i64,
    /// Entries in the stream, settled ones included until they are trimmed.
    depth: i64,
    /// Entries no worker has taken yet.
    lag: i64,
    /// Entries taken and not acknowledged.
    pending: i64,
    /// How long the first entry that is not settled has waited.
    oldest_waiting_seconds: Option<u64>,
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
    let (totals, cursors) = app
        .ask(async { tokio::try_join!(gateway.reader.totals(), gateway.reader.cursors()) })
        .await?;
    let depths = app.call(gateway.upkeep.depths()).await?;
    let payments = totals.applied + totals.recorded + totals.rejected + totals.suspense;
    let thousandths = app.rate.thousandths_per_second(Instant::now(), payments);
    let completion_rate = ratio(totals.customers_completed, totals.customers);
    Ok(Json(StatsView {
        customers: CustomerTotalsView {
            total: totals.customers,
            completed: totals.customers_completed,
            completion_rate: number(completion_rate.round_dp(4)),
        },
        totals: TotalsView::new(payments, totals),
        settled_per_second: number(Decimal::new(thousandths, 3)),
        backlog: BacklogView {
            lag: depths.iter().map(|depth| depth.lag).sum(),
            pending: depths.iter().map(|depth| depth.pending).sum(),
        },
        partitions: partitions(&cursors, &depths),
    }))
}

impl TotalsView {
    fn new(payments: i64, totals: Totals) -> Self {
        let average = totals.amount.checked_div(totals.applied.into()).unwrap_or_default();
        Self {
            payments,
            applied: totals.applied,
            recorded: totals.recorded,
            rejected: totals.rejected,
            suspense: totals.suspense,
            dead_lettered: totals.dead_letters,
            parked: totals.parked,
            conflicts: totals.conflicts,
            duplicates: totals.duplicates,
            amount: money(totals.amount),
            average_amount: money(average),
        }
    }
}

fn partitions(cursors: &[CursorRow], depths: &[Depth]) -> Vec<PartitionView> {
    let cursors: HashMap<i32, &CursorRow> =
        cursors.iter().map(|row| (row.partition, row)).collect();
    let view = |depth: &Depth| {
        let cursor = cursors.get(&i32::from(depth.partition));
        let silence = cursor.and_then(|cursor| cursor.owner_silence());
        let oldest = depth.oldest_waiting.zip(cursor);
        PartitionView {
            partition: depth.partition,
            owner: cursor.and_then(|cursor| cursor.owner.clone()),
            owner_silent_seconds: silence.map(|silence| silence.num_seconds()),
            epoch: cursor.map_or(0, |cursor| cursor.epoch),
            moved_at: cursor.map(|cursor| cursor.moved_at),
            draining_to: cursor.and_then(|cursor| cursor.draining_to.clone()),
            last_sequence: cursor.map_or(0, |cursor| cursor.last_sequence),
            depth: depth.length,
            lag: depth.lag,
            pending: depth.pending,
            oldest_waiting_seconds: oldest.map(|(id, cursor)| id.age_seconds(cursor.as_of)),
        }
    };
    depths.iter().map(view).collect()
}

fn ratio(part: i64, whole: i64) -> Decimal {
    Decimal::from(part).checked_div(whole.into()).unwrap_or_default()
}

/// For figures that are looked at; money stays a string.
fn number(value: Decimal) -> f64 {
    value.to_f64().unwrap_or_default()
}
