//! One payment's whole life, found by its reference.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    pages::{Shell, Visit, given, page, trouble},
    stuck::Entry,
    words,
};
use crate::http::{Problem, Query};
use crate::{
    domain::Reference,
    operations::{DeadLetterFilter, Life, Moment},
};

/// Dead letters of one payment that its page leads to.
const LETTERS_MAX: i64 = 10;

/// Which payment.
#[derive(Deserialize)]
pub(super) struct PaymentsQuery {
    reference: Option<String>,
}

/// Something that happened.
struct MomentView {
    at: String,
    code: String,
    sentence: String,
    mood: &'static str,
}

/// The payment.
struct LifeView {
    state: String,
    mood: &'static str,
    sentence: String,
    facts: Vec<(&'static str, String, Option<String>)>,
    moments: Vec<MomentView>,
    pending: Option<Entry>,
    ledger_available: bool,
}

#[derive(Template)]
#[template(path = "console/payments.html")]
struct PaymentsPage {
    shell: Shell,
    reference: String,
    /// What is wrong with the reference.
    invalid: Option<&'static str>,
    missing: bool,
    life: Option<LifeView>,
}

/// The page.
pub(super) async fn show(
    visit: Visit,
    Query(query): Query<PaymentsQuery>,
) -> Result<Response, Problem> {
    let mut view = PaymentsPage {
        shell: visit.shell("/console/payments", "Payments"),
        reference: String::new(),
        invalid: None,
        missing: false,
        life: None,
    };
    if let Some(text) = given(query.reference.as_ref()) {
        text.clone_into(&mut view.reference);
        match Reference::parse(text) {
            Ok(reference) => {
                let life = visit.operations().life(&reference).await.map_err(trouble)?;
                view.missing = life.is_none();
                if let Some(life) = life {
                    let letters = dead_letters(&visit, &life).await?;
                    view.life = Some(LifeView::new(life, &letters));
                }
                view.shell.title = format!("Payment {text}");
            }
            Err(invalid) => view.invalid = Some(invalid.reason),
        }
    }
    page(&view)
}

/// The dead letters of a payment, the latest first.
async fn dead_letters(visit: &Visit, life: &Life) -> Result<Vec<i64>, Problem> {
    if !life.moments.iter().any(|moment| moment.code == "dead_lettered") {
        return Ok(Vec::new());
    }
    let reference = Some(life.transaction_reference.clone());
    let filter = DeadLetterFilter { reference, ..DeadLetterFilter::default() };
    let letters = visit.operations().dead_letters(&filter, None, LETTERS_MAX).await;
    Ok(letters.map_err(trouble)?.into_iter().map(|letter| letter.id).collect())
}

impl LifeView {
    fn new(life: Life, letters: &[i64]) -> Self {
        let mood = match life.state.as_str() {
            "applied" | "recorded" => "good",
            "dead_lettered" | "rejected" => "bad",
            "accepted" if !life.pending.as_ref().is_some_and(|p| p.verdict.trouble) => "good",
            _ => "warn",
        };
        let customer = life.customer_id.as_deref().map(words::customer_path);
        let place = life.partition.map(|partition| match life.sequence {
            Some(sequence) => format!("{partition}, sequence {}", words::number(sequence)),
            None => partition.to_string(),
        });
        let facts = [
            ("Customer", life.customer_id, customer),
            ("Amount", life.transaction_amount.map(|amount| words::money(&amount)), None),
            ("The bank said", life.payment_status, None),
            ("Partition", place, None),
            ("Entry", life.stream_id, None),
            ("Trace", life.trace_id, None),
        ];
        let facts = facts.into_iter().filter_map(|(name, text, path)| Some((name, text?, path)));
        let letter =
            |id: &i64| ("Dead letter", id.to_string(), Some(format!("/console/dead-letters/{id}")));
        Self {
            state: life.state.replace('_', " "),
            mood,
            sentence: life.sentence,
            facts: facts.chain(letters.iter().map(letter)).collect(),
            moments: life.moments.into_iter().map(MomentView::new).collect(),
            pending: life.pending.map(Entry::new),
            ledger_available: life.ledger_available,
        }
    }
}

impl MomentView {
    fn new(moment: Moment) -> Self {
        let mood = match (moment.failed, moment.code.as_str()) {
            (true, _) => "bad",
            (false, "applied" | "recorded") => "good",
            (false, "changed") => "changed",
            (false, _) => "plain",
        };
        Self {
            at: words::time_or_dash(moment.at),
            code: moment.code.replace('_', " "),
            sentence: moment.sentence,
            mood,
        }
    }
}
