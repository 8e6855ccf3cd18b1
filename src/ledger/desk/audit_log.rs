//! The log of what was changed by hand: who, when, what, why, before and after.
//! Rows are only ever added; the database refuses anything else.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection};

use super::{Desk, PAGE_MAX, Signature};
use crate::ledger::Error;

/// A change that somebody made.
#[derive(Clone, Debug, FromRow)]
pub struct AuditRow {
    /// Rises with every change.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// What: `dead_letter_redriven`, for instance.
    pub action: String,
    /// To what: a reference, a customer, `partition 7`.
    pub subject: String,
    /// Why.
    pub reason: Option<String>,
    /// What it was before,
    pub before: Option<Value>,
    /// and after.
    pub after: Option<Value>,
}

impl Desk {
    /// Changes, the latest first, older than `before`; those of one subject only
    /// if it is given. At most [`super::PAGE_MAX`].
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn audit_log(
        &self,
        subject: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, Error> {
        let rows = sqlx::query_as(
            "select id, at, actor, action, subject, reason, before, after from audit_log
             where ($1 is null or subject = $1) and ($2 is null or id < $2)
             order by id desc limit $3",
        );
        let rows = rows.bind(subject).bind(before).bind(limit.clamp(1, PAGE_MAX));
        Ok(rows.fetch_all(&self.pool).await?)
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
