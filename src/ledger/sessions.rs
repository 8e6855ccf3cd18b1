//! The console's sessions, as gateways share them. Never has the id of one, only its digest, and
//! never says whether what a session stands on is still good.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::{FromRow, Postgres, postgres::PgArguments, query::Query};

use super::{
    Acted, Error, REACH_TIMEOUT, Refusal, Signature,
    admin::{Change, note},
    in_time,
    pool::Pool,
    session::commit,
};

/// Sessions of one operator; one more ends the oldest.
const OF_ONE_OPERATOR_MAX: i64 = 10;
/// Rows that a sign-in deletes: ended ones, and those of its operator that are too many.
const DELETED_MAX: i64 = 100;
/// Sessions that are listed, or named in a row of the audit log.
const LISTED_MAX: i64 = 1_000;

#[derive(Clone, Debug, FromRow)]
pub struct SessionRow {
    pub digest: Vec<u8>,
    /// Empty where the token has no name.
    pub operator: String,
    pub scopes: Option<String>,
    pub source: String,
    pub kid: Option<String>,
    pub jti: Option<String>,
    pub seal: Vec<u8>,
    pub address: String,
    pub signed_in_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    /// Unless it is used before.
    pub ends_at: DateTime<Utc>,
    /// However much it is used.
    pub expires_at: DateTime<Utc>,
}

/// A session as operators see it.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct ListedSession {
    /// The beginning of the digest.
    pub id: String,
    pub operator: String,
    pub address: String,
    pub signed_in_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// The access token that it began with.
    pub jti: Option<String>,
}

/// Which sessions an operator ends.
#[derive(Clone, Debug)]
pub enum EndedSessions {
    /// The one whose digest begins so.
    Of(String),
    Operator(String),
    All,
}

#[derive(Clone)]
pub struct SessionStore {
    pub(super) pool: Pool,
}

impl SessionStore {
    pub async fn find(&self, digest: &[u8]) -> Result<Option<SessionRow>, Error> {
        let rows = sqlx::query_as("select * from console_sessions where digest = $1");
        let found = in_time(REACH_TIMEOUT, self.pool.all(rows.bind(digest))).await;
        found.map(|mut rows| rows.pop())
    }

    /// Keeps a session, and deletes what has ended. Kept before, it stays as it is.
    pub async fn begin(&self, row: &SessionRow) -> Result<(), Error> {
        let begin = sqlx::query(
            "with ended as (
                 delete from console_sessions where digest in (
                     select digest from console_sessions where ends_at <= $10
                     order by ends_at limit $13 for update skip locked)),
             surplus as (
                 delete from console_sessions where digest in (
                     select digest from console_sessions where operator = $2 and digest <> $1
                     order by signed_in_at desc offset $14 limit $13))
             insert into console_sessions (digest, operator, scopes, source, kid, jti, seal,
                 address, signed_in_at, last_used_at, ends_at, expires_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict do nothing",
        )
        .bind(&row.digest)
        .bind(&row.operator)
        .bind(&row.scopes)
        .bind(&row.source)
        .bind(&row.kid)
        .bind(&row.jti)
        .bind(&row.seal)
        .bind(&row.address)
        .bind(row.signed_in_at)
        .bind(row.last_used_at)
        .bind(row.ends_at)
        .bind(row.expires_at)
        .bind(DELETED_MAX)
        .bind(OF_ONE_OPERATOR_MAX - 1);
        self.execute(begin).await
    }

    /// Notes that a session was used. One that was ended meanwhile stays so.
    pub async fn used(&self, row: &SessionRow) -> Result<(), Error> {
        let used = sqlx::query(
            "update console_sessions set last_used_at = greatest(last_used_at, $2),
                 ends_at = greatest(ends_at, $3) where digest = $1",
        );
        let used = used.bind(&row.digest).bind(row.last_used_at).bind(row.ends_at);
        self.execute(used).await
    }

    async fn execute(&self, query: Query<'_, Postgres, PgArguments>) -> Result<(), Error> {
        let executing = self.pool.change(async |session| query.execute(session).await);
        in_time(REACH_TIMEOUT, executing).await.map(drop)
    }

    /// Ends these sessions; returns those that there were, with their operators.
    pub async fn end(&self, digests: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, String)>, Error> {
        let end = sqlx::query_as(
            "delete from console_sessions where digest = any($1) returning digest, operator",
        );
        let end = end.bind(digests);
        let ending = self.pool.change(async |session| end.fetch_all(session).await);
        in_time(REACH_TIMEOUT, ending).await
    }

    /// The sessions that have not ended, the latest sign-in first.
    pub async fn list(&self, now: DateTime<Utc>) -> Result<Vec<ListedSession>, Error> {
        let rows = sqlx::query_as(
            "select left(encode(digest, 'hex'), 12) as id, operator, address, signed_in_at,
                 last_used_at, ends_at, expires_at, jti
             from console_sessions where ends_at > $1 order by signed_in_at desc limit $2",
        );
        self.pool.all(rows.bind(now).bind(LISTED_MAX)).await
    }

    /// Ends sessions by hand, with a row in the audit log; says how many.
    pub async fn end_by_hand(
        &self,
        which: &EndedSessions,
        by: &Signature,
    ) -> Result<Acted<u64>, Error> {
        let (prefix, operator, subject) = match which {
            EndedSessions::Of(prefix) => (Some(prefix), None, format!("session {prefix}")),
            EndedSessions::Operator(name) => (None, Some(name), name.clone()),
            EndedSessions::All => (None, None, "all sessions".to_owned()),
        };
        let mut transaction = self.pool.begin().await?;
        let ended: Vec<(String, String)> = sqlx::query_as(
            "delete from console_sessions
             where ($1::text is null or starts_with(encode(digest, 'hex'), $1))
                 and ($2::text is null or operator = $2)
             returning left(encode(digest, 'hex'), 12), operator",
        )
        .bind(prefix)
        .bind(operator)
        .fetch_all(&mut *transaction)
        .await?;
        if ended.is_empty() {
            return Ok(Err(Refusal::Missing(format!("{subject}: nobody is signed in"))));
        }
        if prefix.is_some() && ended.len() > 1 {
            let refusal = format!("{subject} begins {} sessions: write more of it", ended.len());
            return Ok(Err(Refusal::Impossible(refusal)));
        }
        let count = ended.len();
        let shown = ended.iter().take(usize::try_from(LISTED_MAX).unwrap_or(usize::MAX));
        let shown: Vec<_> = shown.map(|(id, of)| json!({ "id": id, "operator": of })).collect();
        let change = Change {
            action: "console_sessions_ended",
            subject: &subject,
            before: json!({ "sessions": shown }),
            after: json!({ "ended": count }),
        };
        note(&mut transaction, by, &change).await?;
        commit(transaction).await?;
        Ok(Ok(count as u64))
    }
}
