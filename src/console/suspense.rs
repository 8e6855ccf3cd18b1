//! Money of customers that nobody knows.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    pages::{PAGE, Shell, Visit, given, page, trouble},
    stuck::Safe,
    words,
};
use crate::http::{Problem, Query};
use crate::operations::SuspensePayment;

/// Which payments.
#[derive(Deserialize)]
pub(super) struct SuspenseQuery {
    all: Option<String>,
    customer: Option<String>,
    after: Option<String>,
}

/// One of them.
struct Held {
    reference: (String, String),
    customer: String,
    amount: String,
    state: String,
    open: bool,
    sentence: String,
    date: String,
    held_at: String,
    actions: Vec<Safe>,
}

#[derive(Template)]
#[template(path = "console/suspense.html")]
struct SuspensePage {
    shell: Shell,
    all: bool,
    customer: String,
    payments: Vec<Held>,
    next: Option<String>,
}

/// The list.
pub(super) async fn list(
    visit: Visit,
    Query(query): Query<SuspenseQuery>,
) -> Result<Response, Problem> {
    let all = given(query.all.as_ref()).is_some();
    let customer = given(query.customer.as_ref());
    let after = given(query.after.as_ref());
    let found = visit.operations().suspense(all, customer, after, PAGE).await.map_err(trouble)?;
    let full = i64::try_from(found.len()).is_ok_and(|rows| rows == PAGE);
    let customer = customer.unwrap_or_default().to_owned();
    let next = found.last().filter(|_| full).map(|last| {
        format!(
            "/console/suspense?all={}&customer={}&after={}",
            if all { "yes" } else { "" },
            words::encoded(&customer),
            words::encoded(&last.transaction_reference)
        )
    });
    page(&SuspensePage {
        shell: visit.shell("/console/suspense", "Suspense"),
        all,
        customer,
        payments: found.into_iter().map(Held::new).collect(),
        next,
    })
}

impl Held {
    fn new(payment: SuspensePayment) -> Self {
        let reference = payment.transaction_reference;
        Self {
            actions: payment.actions.iter().map(Safe::new).collect(),
            reference: (words::payment_path(&reference), reference),
            customer: payment.customer_id,
            amount: words::money(&payment.transaction_amount),
            open: payment.state == "held",
            state: payment.state.replace('_', " "),
            sentence: payment.sentence,
            date: words::time(payment.transaction_date),
            held_at: words::time(payment.held_at),
        }
    }
}
