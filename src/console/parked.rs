//! Customers whose payments wait behind a dead letter.

use askama::Template;
use axum::response::Response;

use super::{
    pages::{Shell, Visit, page, trouble},
    words,
};
use crate::http::Problem;
use crate::operations::ParkedCustomer;

/// One of them.
struct Parked {
    customer: (String, String),
    parked_at: String,
    payments: String,
    amount: String,
    release: String,
    dead_letters: String,
}

#[derive(Template)]
#[template(path = "console/parked.html")]
struct ParkedPage {
    shell: Shell,
    customers: Vec<Parked>,
}

/// The list.
pub(super) async fn list(visit: Visit) -> Result<Response, Problem> {
    let found = visit.operations().parked().await.map_err(trouble)?;
    page(&ParkedPage {
        shell: visit.shell("/console/parked", "Parked"),
        customers: found.into_iter().map(Parked::new).collect(),
    })
}

impl Parked {
    fn new(row: ParkedCustomer) -> Self {
        let release = row.release().as_ref().map(words::act_path).unwrap_or_default();
        let customer = row.customer_id;
        Self {
            parked_at: words::time(row.parked_at),
            payments: words::number(row.payments),
            amount: words::money(&row.amount),
            release,
            dead_letters: format!("/console/dead-letters?customer={}", words::encoded(&customer)),
            customer: (words::customer_path(&customer), customer),
        }
    }
}
