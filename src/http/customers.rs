//! Customers: their accounts, balances and statements.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tracing::debug;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    intake,
    intake::{JsonFields, Query, Segment, TypedBody},
    operator::Principal,
    problem::{Code, Problem},
    shapes,
    state::App,
    views::{BalanceView, WithIgnored, customer_path},
};
use crate::{
    domain::{Currency, CustomerId, Invalid},
    ledger::{AccountRow, NewAccount, PaymentRow},
    stream::Lookup,
};

const PAGE_MAX: i64 = 1_000;

/// Which page of customers.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// 1 to 1,000; default 20.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// How many to skip; default 0.
    #[param(minimum = 0)]
    offset: Option<i64>,
}

/// A page of customers.
#[derive(Serialize, ToSchema)]
pub(super) struct CustomersView {
    customers: Vec<AccountRow>,
    /// How many there are in all.
    total: i64,
    limit: i64,
    offset: i64,
}

/// List customers
#[utoipa::path(
    get,
    path = "/api/v1/customers",
    tag = "customers",
    params(PageQuery),
    responses(
        (status = 200, description = "A page, by customer id", body = CustomersView),
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<Json<CustomersView>, Problem> {
    let limit = page_size(query.limit)?;
    let offset = query.offset.unwrap_or(0);
    if offset < 0 {
        return Err(Problem::new(Code::InvalidQuery, "offset must not be negative"));
    }
    let (customers, total) = app.ask(app.gateway.reader.accounts(limit, offset)).await?;
    Ok(Json(CustomersView { customers, total, limit, offset }))
}

/// A customer to be opened.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; intake reads it field by field")]
pub(super) struct CustomerBody {
    customer_id: shapes::CustomerIdText,
    asset_value: shapes::AmountText,
    #[schema(minimum = 1, maximum = 5200, example = 50)]
    term_weeks: i32,
    /// The currency of the deployment, as ISO 4217 code; may be left out.
    currency: Option<shapes::CurrencyCode>,
}

struct Terms {
    customer: CustomerId,
    asset_value: rust_decimal::Decimal,
    term_weeks: i32,
    ignored: Vec<String>,
}

/// Open a customer's account
///
/// Payments that waited in suspense for this customer are applied at once, in
/// the order they came. Opening the same account again is harmless.
#[utoipa::path(
    post,
    path = "/api/v1/customers",
    tag = "customers",
    request_body = CustomerBody,
    responses(
        (status = 201, description = "Opened", body = WithIgnored<AccountRow>,
         headers(("Location", description = "The account"))),
        (status = 200, description = "It exists with these terms", body = WithIgnored<AccountRow>),
        (status = 409, description = "It exists with other terms"),
    )
)]
pub(super) async fn open(
    State(app): State<App>,
    operator: Principal,
    body: TypedBody,
) -> Result<Response, Problem> {
    let by = operator.sign_or(None, None, "opened by the API")?;
    let read = read_customer(&body.json()?, app.gateway.registrar.currency())?;
    let Terms { customer, asset_value, term_weeks, ignored } = read;
    let account = NewAccount::new(customer.clone(), asset_value, term_weeks)
        .ok_or_else(|| Problem::new(Code::InvalidCustomer, "the account's terms are not valid"))?;
    let opening = app.ask(app.gateway.registrar.open(account, &by)).await?;
    let row = account_of(&app, &customer).await?;
    if row.asset_value.0 != asset_value || row.term_weeks != term_weeks {
        let detail = format!(
            "it has an asset value of {} over {} weeks; nothing was changed",
            row.asset_value, row.term_weeks
        );
        return Err(Problem::new(Code::CustomerExists, detail));
    }
    let status = if opening.opened == 1 { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, Json(WithIgnored { view: row, ignored })).into_response();
    if let Ok(location) = HeaderValue::from_str(&customer_path(customer.as_str())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn read_customer(json: &[u8], currency: Currency) -> Result<Terms, Problem> {
    let mut fields: JsonFields<'_> = intake::parse(json, Code::InvalidCustomer)?;
    let customer = fields.take("customer_id", |raw| CustomerId::parse(intake::string(raw)?));
    let value = fields.take("asset_value", intake::amount);
    let weeks = fields.take("term_weeks", |raw| {
        // JSON knows no whole numbers: 50.0 is 50.
        let text = raw.get();
        let whole =
            text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|digit| digit == b'0'));
        let text = whole.map_or(text, |(whole, _)| whole);
        let weeks = text.parse().ok().filter(|weeks| (1..=5_200).contains(weeks));
        weeks.ok_or(Invalid { code: "out_of_range", reason: "must be a number from 1 to 5200" })
    });
    fields.check_currency(currency);
    let ignored = fields.finish(Code::InvalidCustomer)?;
    match (customer, value, weeks) {
        (Some(customer), Some(value), Some(term_weeks)) => {
            Ok(Terms { customer, asset_value: value.get(), term_weeks, ignored })
        }
        _ => Err(Problem::new(Code::InvalidCustomer, "a field is not valid")),
    }
}

/// Show a customer's account
#[utoipa::path(
    get,
    path = "/api/v1/customers/{customer_id}",
    tag = "customers",
    responses(
        (status = 200, description = "The account", body = AccountRow),
        (status = 404, description = "No customer has this id"),
    )
)]
pub(super) async fn show(
    State(app): State<App>,
    Segment(customer): Segment,
) -> Result<Json<AccountRow>, Problem> {
    account_of(&app, &parse_id(customer)?).await.map(Json)
}

/// Show a customer's balance
///
/// Includes every payment that was reported applied before this was asked.
#[utoipa::path(
    get,
    path = "/api/v1/customers/{customer_id}/balance",
    tag = "customers",
    responses(
        (status = 200, description = "The balance", body = BalanceView),
        (status = 404, description = "No customer has this id"),
    )
)]
pub(super) async fn balance(
    State(app): State<App>,
    Segment(customer): Segment,
) -> Result<Response, Problem> {
    let customer = parse_id(customer)?;
    let balances = &app.gateway.balances;
    // The cache may be cold or away; the ledger knows the balance.
    let lookup =
        balances.get(&customer, Uuid::now_v7().to_string()).await.unwrap_or_else(|error| {
            debug!(%error, "the balance cache is away");
            Lookup::Pass
        });
    let lease = match lookup {
        Lookup::Hit(json) => return Ok(json_text(json)),
        Lookup::Lease(lease) => Some(lease),
        Lookup::Pass => None,
    };
    let view = BalanceView::from(account_of(&app, &customer).await?);
    let json = serde_json::to_string(&view)
        .map_err(|_| Problem::new(Code::Internal, "the balance could not be written"))?;
    if let Some(lease) = lease
        && let Err(error) = balances.fill(&customer, &lease, &json).await
    {
        debug!(%error, "the balance cache is away");
    }
    Ok(json_text(json))
}

/// Which part of a statement.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StatementQuery {
    /// 1 to 1,000; default 20.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<i64>,
}

/// A part of a customer's statement.
#[derive(Serialize, ToSchema)]
pub(super) struct StatementView {
    customer_id: String,
    /// Newest first, each with the balance after it.
    payments: Vec<PaymentRow>,
    /// Where the next page starts; none after the last.
    next_cursor: Option<i64>,
    /// On the last page: the version up to which rows have left the ledger for the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    archived_up_to: Option<i64>,
}

/// Show a customer's statement
///
/// The payments of the caller's source; the balances are those after all payments.
#[utoipa::path(
    get,
    path = "/api/v1/customers/{customer_id}/payments",
    tag = "customers",
    params(StatementQuery),
    responses(
        (status = 200, description = "A page, newest first", body = StatementView),
        (status = 404, description = "No customer has this id"),
    )
)]
pub(super) async fn statement(
    State(app): State<App>,
    caller: Principal,
    Segment(customer): Segment,
    Query(query): Query<StatementQuery>,
) -> Result<Json<StatementView>, Problem> {
    let customer = parse_id(customer)?;
    let limit = page_size(query.limit)?;
    let before = query.cursor.unwrap_or(i64::MAX);
    account_of(&app, &customer).await?;
    let payments = app
        .ask(app.gateway.reader.statement(&customer, Some(&caller.source), before, limit))
        .await?;
    let full = i64::try_from(payments.len()).is_ok_and(|rows| rows == limit);
    let next_cursor = payments.last().and_then(|last| last.account_version);
    let next_cursor = next_cursor.filter(|version| full && *version > 1);
    let archived_up_to = match next_cursor {
        Some(_) => None,
        None => app.ask(app.gateway.reader.archived_up_to(&customer)).await?,
    };
    let customer_id = customer.as_str().to_owned();
    Ok(Json(StatementView { customer_id, payments, next_cursor, archived_up_to }))
}

async fn account_of(app: &App, customer: &CustomerId) -> Result<AccountRow, Problem> {
    app.ask(app.gateway.reader.account(customer)).await?.ok_or_else(not_found)
}

fn parse_id(text: String) -> Result<CustomerId, Problem> {
    CustomerId::parse(text).map_err(|_| not_found())
}

fn not_found() -> Problem {
    Problem::new(Code::CustomerNotFound, "open the account with POST /api/v1/customers")
}

fn page_size(limit: Option<i64>) -> Result<i64, Problem> {
    let limit = limit.unwrap_or(20);
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(Code::InvalidQuery, format!("limit must be from 1 to {PAGE_MAX}")))
}

fn json_text(json: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
}
