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
    operations::{AuditEntry, Conflict, DeadLetter, EntryName, ParkedCustomer, SuspensePayment},
};

/// A list and its page; the next one is at the cursor of this name.
macro_rules! list {
    ($name:ident of $row:ident, $template:tt, $area:tt, $title:tt, $cursor:tt) => {
        pub(super) async fn $name(visit: Visit, asked: Asked) -> Result<Response, Problem> {
            #[derive(Template)]
            #[template(path = $template)]
            struct ListPage {
                shell: Shell,
                list: Listing<$row>,
            }
            let found = visit.operations().$name(&asked.filter()?).await.map_err(trouble)?;
            let list = Listing::new(asked, found, $cursor);
            page(&ListPage { shell: visit.shell($area, $title), list })
        }
    };
}

list!(dead_letters of DeadLetter, "console/dead_letters.html", "/console/dead-letters",
    "Dead letters", "before");
list!(suspense of SuspensePayment, "console/suspense.html", "/console/suspense", "Suspense",
    "after");
list!(conflicts of Conflict, "console/conflicts.html", "/console/conflicts", "Conflicts", "after");
list!(audit_log of AuditEntry, "console/audit.html", "/console/audit", "Audit log", "before");

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
