//! The log of what was changed by hand: who, when, what, why, before and after.
//! Rows are only ever added; the database refuses anything else.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection, QueryBuilder};

use super::{AdminStore, PAGE_MAX, Signature};
use crate::ledger::Error;

/// A change that somebody made.
#[derive(Clone, Debug, FromRow)]
pub struct AuditRow {
    /// Rises with every change.
    pub id: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    /// What: `dead_letter_redriven`, for instance.
    pub action: String,
    /// To what: a reference, a customer, `partition 7`.
    pub subject: String,
    pub reason: Option<String>,
    /// What it was before,
    pub before: Option<Value>,
    /// and after.
    pub after: Option<Value>,
}

impl AdminStore {
    /// Changes, the latest first, older than `before`; those of one subject only
    /// if it is given. At most [`super::PAGE_MAX`].
    pub async fn audit_log(
        &self,
        subject: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, Error> {
        let mut query = QueryBuilder::new(
            "select id, at, actor, action, subject, reason, before, after from audit_log where true",
        );
        if let Some(subject) = subject {
            query.push(" and subject = ").push_bind(subject);
        }
        if let Some(before) = before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(limit.min(PAGE_MAX));
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }

    /// Notes that somebody changed how much a gateway logs.
    pub async fn note_log_level(
        &self,
        before: &str,
        after: &str,
        by: &Signature,
    ) -> Result<(), Error> {
        let change = Change {
            action: "log_level_changed",
            subject: "log level",
            before: json!({ "level": before }),
            after: json!({ "level": after }),
        };
        note(&mut *self.pool.acquire().await?, by, &change).await
    }
}

/// A change that is being made.
pub(in crate::ledger) struct Change<'a> {
    pub(in crate::ledger) action: &'static str,
    pub(in crate::ledger) subject: &'a str,
    pub(in crate::ledger) before: Value,
    pub(in crate::ledger) after: Value,
}

/// Notes a change, within its transaction.
pub(in crate::ledger) async fn note(
    connection: &mut PgConnection,
    signature: &Signature,
    change: &Change<'_>,
) -> Result<(), Error> {
    sqlx::query(
        "insert into audit_log (actor, action, subject, reason, before, after)
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&signature.actor)
    .bind(change.action)
    .bind(change.subject)
    .bind(&signature.reason)
    .bind(&change.before)
    .bind(&change.after)
    .execute(connection)
    .await?;
    Ok(())
}

/// Who made such a change last, and when, as the end of a sentence: `by ada at
/// 2025-11-07 14:54:16 UTC`. `after` is what the change had noted, in part.
pub(super) async fn by_whom(
    connection: &mut PgConnection,
    subject: &str,
    action: &str,
    after: &Value,
) -> Result<String, Error> {
    let row: Option<(String, DateTime<Utc>)> = sqlx::query_as(
        "select actor, at from audit_log
         where subject = $1 and action = $2 and after @> $3 order by id desc limit 1",
    )
    .bind(subject)
    .bind(action)
    .bind(after)
    .fetch_optional(connection)
    .await?;
    let row =
        row.map(|(actor, at)| format!("by {actor} at {}", at.format("%Y-%m-%d %H:%M:%S UTC")));
    Ok(row.unwrap_or_else(|| "before".to_owned()))
}
