//! Customers, and one customer's account with its statement.

use askama::Template;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::{
    pages::{PAGE, Shell, Visit, asked, given, page},
    words,
};
use crate::http::{Code, Problem, Query, Segment};
use crate::{
    domain::CustomerId,
    ledger::{AccountRow, PaymentRow},
};

/// Which customers.
#[derive(Deserialize)]
pub(super) struct CustomersQuery {
    customer: Option<String>,
    offset: Option<i64>,
}

/// Which part of a statement.
#[derive(Deserialize)]
pub(super) struct StatementQuery {
    before: Option<i64>,
}

/// An account.
struct Account {
    customer: (String, String),
    asset_value: String,
    paid: String,
    outstanding: String,
    credit: String,
    payments: String,
    term_weeks: i32,
    opened: String,
    changed: String,
    /// How much of the value is paid, in per cent with one decimal.
    percent: String,
}

/// A row of a statement.
struct Line {
    reference: (String, String),
    status: String,
    outcome: String,
    mood: &'static str,
    amount: String,
    applied: String,
    excess: String,
    balance: String,
    version: String,
    date: String,
    processed: String,
}

#[derive(Template)]
#[template(path = "console/customers.html")]
struct CustomersPage {
    shell: Shell,
    customer: String,
    missing: bool,
    accounts: Vec<Account>,
    total: String,
    before: Option<i64>,
    after: Option<i64>,
}

#[derive(Template)]
#[template(path = "console/customer.html")]
struct CustomerPage {
    shell: Shell,
    account: Account,
    lines: Vec<Line>,
    next: Option<String>,
    as_of: String,
}

/// The list, or the account that is looked for.
pub(super) async fn list(
    visit: Visit,
    Query(query): Query<CustomersQuery>,
) -> Result<Response, Problem> {
    let reader = &visit.console.app.gateway.reader;
    let wanted = given(query.customer.as_ref());
    if let Some(wanted) = wanted
        && let Ok(customer) = CustomerId::parse(wanted)
        && visit.console.app.ask(reader.account(&customer)).await.map_err(asked)?.is_some()
    {
        return Ok(Redirect::to(&words::customer_path(wanted)).into_response());
    }
    let offset = query.offset.unwrap_or(0).max(0);
    let (rows, total) =
        visit.console.app.ask(reader.accounts(PAGE, offset)).await.map_err(asked)?;
    page(&CustomersPage {
        shell: visit.shell("/console/customers", "Customers"),
        customer: wanted.unwrap_or_default().to_owned(),
        missing: wanted.is_some(),
        accounts: rows.into_iter().map(Account::new).collect(),
        total: words::number(total),
        before: (offset > 0).then(|| (offset - PAGE).max(0)),
        after: Some(offset.saturating_add(PAGE)).filter(|next| *next < total),
    })
}

/// One account, and a part of its statement.
pub(super) async fn show(
    visit: Visit,
    Segment(customer): Segment,
    Query(query): Query<StatementQuery>,
) -> Result<Response, Problem> {
    let missing = || Problem::new(Code::CustomerNotFound, "look it up in the list of customers");
    let customer = CustomerId::parse(customer).map_err(|_| missing())?;
    let reader = &visit.console.app.gateway.reader;
    let row = visit
        .console
        .app
        .ask(reader.account(&customer))
        .await
        .map_err(asked)?
        .ok_or_else(missing)?;
    let before = query.before.unwrap_or(i64::MAX);
    let rows =
        visit.console.app.ask(reader.statement(&customer, before, PAGE)).await.map_err(asked)?;
    let full = i64::try_from(rows.len()).is_ok_and(|rows| rows == PAGE);
    let next = rows.last().and_then(|last| last.account_version);
    let next = next.filter(|version| full && *version > 1);
    let path = words::customer_path(customer.as_str());
    page(&CustomerPage {
        shell: visit.shell("/console/customers", format!("Customer {}", customer.as_str())),
        as_of: words::time(row.as_of),
        account: Account::new(row),
        lines: rows.into_iter().map(Line::new).collect(),
        next: next.map(|version| format!("{path}?before={version}")),
    })
}

impl Account {
    fn new(row: AccountRow) -> Self {
        let money = |value| words::money(&crate::http::money(value));
        let hundred = rust_decimal::Decimal::ONE_HUNDRED;
        let percent = (row.total_paid * hundred).checked_div(row.asset_value).unwrap_or_default();
        Self {
            customer: (words::customer_path(&row.customer_id), row.customer_id),
            asset_value: money(row.asset_value),
            paid: money(row.total_paid),
            outstanding: money(row.outstanding_balance),
            credit: money(row.credit),
            payments: words::number(row.payment_count),
            term_weeks: row.term_weeks,
            opened: words::time(row.created_at),
            changed: words::time(row.updated_at),
            percent: percent.trunc_with_scale(1).to_string(),
        }
    }
}

impl Line {
    fn new(row: PaymentRow) -> Self {
        let money = |value: Option<_>| {
            words::or_dash(value.map(|value| words::money(&crate::http::money(value))))
        };
        let outcome = match row.state {
            crate::ledger::PaymentState::Applied => "applied",
            crate::ledger::PaymentState::Recorded => "recorded",
            crate::ledger::PaymentState::Rejected => "rejected",
            crate::ledger::PaymentState::Suspense => "in suspense",
            crate::ledger::PaymentState::RefundMarked => "marked for refund",
            crate::ledger::PaymentState::DeadLettered => "dead letter",
            crate::ledger::PaymentState::Parked => "parked",
            crate::ledger::PaymentState::Discarded => "discarded",
        };
        Self {
            mood: if matches!(outcome, "applied" | "recorded") { "good" } else { "warn" },
            outcome: row.reason.map_or_else(
                || outcome.to_owned(),
                |reason| format!("{outcome}: {}", reason.replace('_', " ")),
            ),
            status: words::or_dash(row.payment_status),
            amount: money(row.amount),
            applied: money(row.applied_amount),
            excess: money(row.excess_amount),
            balance: money(row.balance_after),
            version: row.account_version.map_or_else(|| "–".to_owned(), words::number),
            date: words::time_or_dash(row.transaction_date),
            processed: words::time(row.processed_at),
            reference: (words::payment_path(&row.transaction_reference), row.transaction_reference),
        }
    }
}
