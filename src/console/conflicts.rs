//! Conflicts: two payments under one reference, side by side.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    pages::{PAGE, Shell, Visit, given, page, trouble},
    stuck::Safe,
    words,
};
use crate::{
    http::{Problem, Query},
    operations::{Conflict, ConflictName},
};

/// Which conflicts.
#[derive(Deserialize)]
pub(super) struct ConflictsQuery {
    all: Option<String>,
    reference: Option<String>,
    /// Behind this conflict.
    after: Option<String>,
}

/// A line of the comparison: its name, the first payment's and the later one's,
/// and whether they differ.
struct Line {
    name: &'static str,
    first: String,
    later: String,
    differs: bool,
}

/// One of them.
struct Pair {
    reference: (String, String),
    sentence: String,
    state: String,
    detected_at: String,
    lines: Vec<Line>,
    actions: Vec<Safe>,
}

#[derive(Template)]
#[template(path = "console/conflicts.html")]
struct ConflictsPage {
    shell: Shell,
    all: bool,
    reference: String,
    pairs: Vec<Pair>,
    next: Option<String>,
}

/// The list.
pub(super) async fn list(
    visit: Visit,
    Query(query): Query<ConflictsQuery>,
) -> Result<Response, Problem> {
    let all = given(query.all.as_ref()).is_some();
    let reference = given(query.reference.as_ref());
    let after: Option<ConflictName> =
        given(query.after.as_ref()).and_then(|text| text.parse().ok());
    let found = visit.operations().conflicts(all, reference, after, PAGE).await.map_err(trouble)?;
    let full = i64::try_from(found.len()).is_ok_and(|rows| rows == PAGE);
    let reference = reference.unwrap_or_default().to_owned();
    let next = found.last().filter(|_| full).map(|last| {
        format!(
            "/console/conflicts?all={}&reference={}&after={}",
            if all { "yes" } else { "" },
            words::encoded(&reference),
            words::encoded(&last.name().to_string())
        )
    });
    page(&ConflictsPage {
        shell: visit.shell("/console/conflicts", "Conflicts"),
        all,
        reference,
        pairs: found.into_iter().map(Pair::new).collect(),
        next,
    })
}

impl Pair {
    fn new(conflict: Conflict) -> Self {
        let line = |name, first: Option<String>, later: String| Line {
            name,
            differs: first.as_ref().is_some_and(|first| *first != later),
            first: words::or_dash(first),
            later,
        };
        let amount = |text: &str| words::money(text);
        Self {
            actions: conflict.actions.iter().map(Safe::new).collect(),
            lines: vec![
                line("Customer", conflict.first_customer_id, conflict.customer_id),
                line(
                    "Amount",
                    conflict.first_amount.as_deref().map(amount),
                    amount(&conflict.transaction_amount),
                ),
                line(
                    "Date of the bank",
                    conflict.first_transaction_date.map(words::time),
                    words::time(conflict.transaction_date),
                ),
            ],
            reference: (
                words::payment_path(&conflict.transaction_reference),
                conflict.transaction_reference,
            ),
            sentence: conflict.sentence,
            state: conflict.state,
            detected_at: words::time(conflict.detected_at),
        }
    }
}
