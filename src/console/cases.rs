//! What waits for somebody's decision: dead letters, suspense, conflicts and parked
//! payments; and the audit log of what was decided. Changes are asked for on a page
//! of their own.

use askama::Template;
use axum::response::Response;
use serde_json::Value;

use super::{
    list::{Asked, Listing},
    shell::{Shell, Visit, page, trouble},
    words,
};
use crate::{
    http::{Code, Problem, Segment},
    operations::{AuditEntry, Conflict, DeadLetter, ParkedCustomer, SuspensePayment},
};

#[derive(Template)]
#[template(path = "console/dead_letters.html")]
struct DeadLettersPage {
    shell: Shell,
    list: Listing<DeadLetter>,
}

pub(super) async fn dead_letters(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let found = visit.operations().dead_letters(&asked.filter()?).await.map_err(trouble)?;
    let list = Listing::new(asked, found, "before");
    page(&DeadLettersPage { shell: visit.shell("/console/dead-letters", "Dead letters"), list })
}

#[derive(Template)]
#[template(path = "console/dead_letter.html")]
struct DeadLetterPage {
    shell: Shell,
    letter: DeadLetter,
}

pub(super) async fn dead_letter(visit: Visit, Segment(id): Segment) -> Result<Response, Problem> {
    let missing = || Problem::new(Code::CaseNotFound, "no dead letter has this number");
    let id = id.parse().map_err(|_| missing())?;
    let letter = visit.operations().dead_letter(id).await.map_err(trouble)?.ok_or_else(missing)?;
    let shell = visit.shell("/console/dead-letters", format!("Dead letter {id}"));
    page(&DeadLetterPage { shell, letter })
}

#[derive(Template)]
#[template(path = "console/suspense.html")]
struct SuspensePage {
    shell: Shell,
    list: Listing<SuspensePayment>,
}

pub(super) async fn suspense(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let found = visit.operations().suspense(&asked.filter()?).await.map_err(trouble)?;
    let list = Listing::new(asked, found, "after");
    page(&SuspensePage { shell: visit.shell("/console/suspense", "Suspense"), list })
}

#[derive(Template)]
#[template(path = "console/conflicts.html")]
struct ConflictsPage {
    shell: Shell,
    list: Listing<Conflict>,
}

pub(super) async fn conflicts(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let found = visit.operations().conflicts(&asked.filter()?).await.map_err(trouble)?;
    let list = Listing::new(asked, found, "after");
    page(&ConflictsPage { shell: visit.shell("/console/conflicts", "Conflicts"), list })
}

#[derive(Template)]
#[template(path = "console/parked.html")]
struct ParkedPage {
    shell: Shell,
    list: Listing<ParkedCustomer>,
}

pub(super) async fn parked(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let rows = visit.operations().parked(None).await.map_err(trouble)?;
    let list = Listing { rows, asked, next: None };
    page(&ParkedPage { shell: visit.shell("/console/parked", "Parked"), list })
}

#[derive(Template)]
#[template(path = "console/audit.html")]
struct AuditPage {
    shell: Shell,
    list: Listing<AuditEntry>,
}

pub(super) async fn audit(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let found = visit.operations().audit_log(&asked.filter()?).await.map_err(trouble)?;
    let list = Listing::new(asked, found, "before");
    page(&AuditPage { shell: visit.shell("/console/audit", "Audit log"), list })
}

fn mood(open: bool) -> &'static str {
    if open { "warn" } else { "plain" }
}

/// What a side of a change says, field by field.
fn fields(side: &Option<Value>) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => words::NONE.to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    match side {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, value)| (format!("{}: ", words::spaced(name)), text(value)))
            .collect(),
        Some(value) => vec![(String::new(), text(value))],
    }
}
