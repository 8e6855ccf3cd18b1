//! Customers, and one customer's account with its statement.

use askama::Template;
use axum::response::{IntoResponse, Redirect, Response};
use rust_decimal::Decimal;

use super::{
    list::{Asked, Listing, PAGE},
    shell::{Shell, Visit, page},
    words,
};
use crate::{
    domain::{CustomerId, PaymentState},
    http::{Code, Problem, Segment},
    ledger::{AccountRow, PaymentRow},
    operations::Page,
};

#[derive(Template)]
#[template(path = "console/customers.html")]
struct CustomersPage {
    shell: Shell,
    list: Listing<AccountRow>,
    total: i64,
    before: Option<i64>,
}

/// The list, or the account that is looked for.
pub(super) async fn list(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let reader = &visit.console.app.gateway.reader;
    if let Some(Ok(customer)) = asked.owned("customer").map(CustomerId::parse)
        && visit.ask(reader.account(&customer)).await?.is_some()
    {
        return Ok(Redirect::to(&words::customer_path(customer.as_str())).into_response());
    }
    let offset = asked.parsed("offset")?.unwrap_or(0).max(0);
    let (rows, total) = visit.ask(reader.accounts(PAGE, offset)).await?;
    let after = Some(offset.saturating_add(PAGE)).filter(|next| *next < total);
    let list = Listing { rows, asked, next: None };
    page(&CustomersPage {
        shell: visit.shell("/console/customers", "Customers"),
        list: list.followed_by("offset", after.map(|offset| offset.to_string())),
        total,
        before: (offset > 0).then(|| (offset - PAGE).max(0)),
    })
}

#[derive(Template)]
#[template(path = "console/customer.html")]
struct CustomerPage {
    shell: Shell,
    account: AccountRow,
    list: Listing<PaymentRow>,
    /// How much of the value is paid, in per cent with one decimal.
    percent: Decimal,
}

/// One account, and a part of its statement.
pub(super) async fn show(
    visit: Visit,
    Segment(customer): Segment,
    asked: Asked,
) -> Result<Response, Problem> {
    let missing = || Problem::new(Code::CustomerNotFound, "look it up in the list of customers");
    let customer = CustomerId::parse(customer).map_err(|_| missing())?;
    let reader = &visit.console.app.gateway.reader;
    let account = visit.ask(reader.account(&customer)).await?.ok_or_else(missing)?;
    let before = asked.parsed("before")?.unwrap_or(i64::MAX);
    let rows = visit.ask(reader.statement(&customer, None, before, PAGE)).await?;
    // The first row of all has nothing behind it.
    let last = rows.last().and_then(|last| last.account_version).filter(|version| *version > 1);
    let full = i64::try_from(rows.len()).is_ok_and(|rows| rows >= PAGE);
    let list = Listing::new(asked, Page { rows, next: last.filter(|_| full) }, "before");
    let percent = (account.total_paid.0 * Decimal::ONE_HUNDRED).checked_div(account.asset_value.0);
    page(&CustomerPage {
        shell: visit.shell("/console/customers", format!("Customer {}", customer.as_str())),
        percent: percent.unwrap_or_default().trunc_with_scale(1),
        account,
        list,
    })
}

/// What became of a payment of the statement.
fn outcome(row: &PaymentRow) -> String {
    let outcome = row.state.label();
    match &row.reason {
        Some(reason) => format!("{outcome}: {}", words::spaced(reason)),
        None => outcome.to_owned(),
    }
}
