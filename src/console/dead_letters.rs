//! Dead letters: found by what is known of them, and looked at one by one. What
//! is done with them is asked on a page of its own.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    pages::{PAGE, Shell, Visit, given, page, trouble},
    stuck::Safe,
    words,
};
use crate::http::{Code, Problem, Query, Segment};
use crate::{ledger::DeadLetterFilter, operations::DeadLetter};

/// Which dead letters.
#[derive(Deserialize)]
pub(super) struct DeadLettersQuery {
    state: Option<String>,
    reference: Option<String>,
    code: Option<String>,
    customer: Option<String>,
    before: Option<i64>,
}

/// One of them.
struct Letter {
    id: i64,
    reference: Option<(String, String)>,
    customer: Option<(String, String)>,
    amount: String,
    partition: u16,
    stream_id: String,
    sequence: String,
    code: String,
    reason: String,
    attempts: u32,
    state: String,
    dead_at: String,
    resolved_at: String,
    entry: String,
    actions: Vec<Safe>,
}

#[derive(Template)]
#[template(path = "console/dead_letters.html")]
struct ListPage {
    shell: Shell,
    state: String,
    reference: String,
    code: String,
    customer: String,
    filtered: bool,
    letters: Vec<Letter>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "console/dead_letter.html")]
struct LetterPage {
    shell: Shell,
    letter: Letter,
}

/// The list.
pub(super) async fn list(
    visit: Visit,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Response, Problem> {
    let text = |field: &Option<String>| given(field.as_ref()).unwrap_or_default().to_owned();
    let state = match given(query.state.as_ref()) {
        None => "dead".to_owned(),
        Some(state) => state.to_owned(),
    };
    let (reference, code) = (text(&query.reference), text(&query.code));
    let customer = text(&query.customer);
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let filter = DeadLetterFilter {
        state: (state != "all").then(|| state.clone()),
        reference: some(&reference),
        code: some(&code),
        customer: some(&customer),
        ..DeadLetterFilter::default()
    };
    let found =
        visit.operations().dead_letters(&filter, query.before, PAGE).await.map_err(trouble)?;
    let full = i64::try_from(found.len()).is_ok_and(|rows| rows == PAGE);
    let next = found.last().filter(|_| full).map(|last| {
        format!(
            "/console/dead-letters?state={}&reference={}&code={}&customer={}&before={}",
            words::encoded(&state),
            words::encoded(&reference),
            words::encoded(&code),
            words::encoded(&customer),
            last.id
        )
    });
    page(&ListPage {
        shell: visit.shell("/console/dead-letters", "Dead letters"),
        filtered: [&reference, &code, &customer].iter().any(|text| !text.is_empty()),
        state,
        reference,
        code,
        customer,
        letters: found.into_iter().map(Letter::new).collect(),
        next,
    })
}

/// One dead letter.
pub(super) async fn show(visit: Visit, Segment(id): Segment) -> Result<Response, Problem> {
    let missing = || Problem::new(Code::CaseNotFound, "no dead letter has this number");
    let id = id.parse().map_err(|_| missing())?;
    let letter = visit.operations().dead_letter(id).await.map_err(trouble)?.ok_or_else(missing)?;
    page(&LetterPage {
        shell: visit.shell("/console/dead-letters", format!("Dead letter {id}")),
        letter: Letter::new(letter),
    })
}

impl Letter {
    fn new(letter: DeadLetter) -> Self {
        Self {
            actions: letter.actions.iter().map(Safe::new).collect(),
            id: letter.id,
            reference: letter.transaction_reference.map(|r| (words::payment_path(&r), r)),
            customer: letter.customer_id.map(|c| (words::customer_path(&c), c)),
            amount: words::or_dash(letter.transaction_amount.map(|amount| words::money(&amount))),
            partition: letter.partition,
            stream_id: letter.stream_id,
            sequence: letter.sequence.map_or_else(|| words::UNKNOWN.to_owned(), words::number),
            code: letter.code.replace('_', " "),
            reason: letter.reason,
            attempts: letter.attempts,
            state: letter.state,
            dead_at: words::time(letter.dead_at),
            resolved_at: words::time_or_dash(letter.resolved_at),
            entry: format!("{:#}", letter.entry),
        }
    }
}
