//! The audit log of operators' changes: who, when, what, why, before and after. Rows are never
//! changed or removed; the database refuses it, and chains them so that it shows.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{AdminStore, Signature};
use crate::ledger::{Error, session::Session};

impl AdminStore {
    /// Notes a change of a gateway's log level.
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
        self.pool.change(async |session| note(session, by, &change).await).await
    }
}

/// A change that is being made.
pub(in crate::ledger) struct Change<'a> {
    pub(in crate::ledger) action: &'static str,
    pub(in crate::ledger) subject: &'a str,
    pub(in crate::ledger) before: Value,
    pub(in crate::ledger) after: Value,
}

/// The last statement of its transaction: others that note something wait for it from here on, so
/// it must not wait for them.
pub(in crate::ledger) async fn note(
    connection: &mut Session,
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
    connection: &mut Session,
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
