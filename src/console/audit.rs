//! The audit log: who changed what, when and why, before and after.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::{
    pages::{PAGE, Shell, Visit, given, page, trouble},
    words,
};
use crate::http::{Problem, Query};
use crate::operations::AuditEntry;

/// Which changes.
#[derive(Deserialize)]
pub(super) struct AuditQuery {
    subject: Option<String>,
    before: Option<i64>,
}

/// One of them.
struct Change {
    at: String,
    actor: String,
    action: String,
    subject: String,
    reason: String,
    before: Vec<(String, String)>,
    after: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "console/audit.html")]
struct AuditPage {
    shell: Shell,
    subject: String,
    changes: Vec<Change>,
    next: Option<String>,
}

/// The list.
pub(super) async fn list(
    visit: Visit,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let subject = given(query.subject.as_ref());
    let found = visit.operations().audit_log(subject, query.before, PAGE).await.map_err(trouble)?;
    let full = i64::try_from(found.len()).is_ok_and(|rows| rows == PAGE);
    let subject = subject.unwrap_or_default().to_owned();
    let next = found.last().filter(|_| full).map(|last| {
        format!("/console/audit?subject={}&before={}", words::encoded(&subject), last.id)
    });
    page(&AuditPage {
        shell: visit.shell("/console/audit", "Audit log"),
        subject,
        changes: found.into_iter().map(Change::new).collect(),
        next,
    })
}

impl Change {
    fn new(row: AuditEntry) -> Self {
        Self {
            at: words::time(row.at),
            actor: row.actor,
            action: row.action.replace('_', " "),
            subject: row.subject,
            reason: words::or_dash(row.reason),
            before: fields(row.before),
            after: fields(row.after),
        }
    }
}

/// What a side of a change says, field by field.
fn fields(side: Option<Value>) -> Vec<(String, String)> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        Value::Null => "–".to_owned(),
        value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            value.to_string()
        }
    };
    match side {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(map)) => {
            map.into_iter().map(|(name, value)| (name.replace('_', " "), text(value))).collect()
        }
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))) => {
            vec![(String::new(), text(value))]
        }
    }
}
