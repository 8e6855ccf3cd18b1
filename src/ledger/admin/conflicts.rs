//! Payments that came under a used reference with other content: found, and
//! noted as dealt with. Never gives one an effect.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::json;
use sqlx::{FromRow, QueryBuilder};

use super::{
    Acted, AdminStore, PAGE_MAX, Refusal, Signature,
    audit_log::{Change, by_whom, note},
};
use crate::ledger::Error;

const RESOLVED: &str = "conflict_resolved";

/// Selects [`OpenConflict`]s.
const CONFLICT: &str = "select c.partition, c.sequence, c.transaction_reference, \
     c.payment_status, c.customer_id, c.amount, c.transaction_date, c.state, c.detected_at, \
     c.resolved_at, f.customer_id as first_customer_id, f.amount as first_amount, \
     f.transaction_date as first_transaction_date \
     from conflicts c left join lateral ( \
         select customer_id, amount, transaction_date from processed_transactions p \
         where p.transaction_reference = c.transaction_reference \
             and p.payment_status = c.payment_status \
         union all select customer_id, amount, transaction_date from suspense s \
         where s.transaction_reference = c.transaction_reference \
             and c.payment_status = 'COMPLETE' and s.state in ('held', 'refund_marked') \
         union all select customer_id, amount, transaction_date from parked k \
         where k.transaction_reference = c.transaction_reference \
             and k.payment_status = c.payment_status and k.state = 'held' \
         limit 1) f on true";

/// A conflict beside the payment that has the reference.
#[derive(Clone, Debug, FromRow)]
pub struct OpenConflict {
    /// Where it came from,
    pub partition: i32,
    /// and its sequence there: together they name it.
    pub sequence: i64,
    pub transaction_reference: String,
    /// What it said,
    pub payment_status: String,
    /// of whom,
    pub customer_id: String,
    /// how much,
    pub amount: Decimal,
    /// and when.
    pub transaction_date: DateTime<Utc>,
    /// `open` or `resolved`.
    pub state: String,
    /// When it was found.
    pub detected_at: DateTime<Utc>,
    /// When somebody dealt with it.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Whose the payment is that has the reference,
    pub first_customer_id: Option<String>,
    /// how much,
    pub first_amount: Option<Decimal>,
    /// and when.
    pub first_transaction_date: Option<DateTime<Utc>>,
}

impl AdminStore {
    /// Conflicts, the longest open first, after this place; open ones only,
    /// unless `all`. At most [`super::PAGE_MAX`].
    pub async fn conflicts(
        &self,
        all: bool,
        reference: Option<&str>,
        after: Option<(i32, i64)>,
        limit: i64,
    ) -> Result<Vec<OpenConflict>, Error> {
        let mut query = QueryBuilder::new(CONFLICT);
        query.push(if all { " where true" } else { " where c.state = 'open'" });
        if let Some(reference) = reference {
            query.push(" and c.transaction_reference = ").push_bind(reference);
        }
        if let Some((partition, sequence)) = after {
            query.push(
                " and (c.detected_at, c.partition, c.sequence) >
                     all (select detected_at, partition, sequence from conflicts where partition = ",
            );
            query.push_bind(partition).push(" and sequence = ").push_bind(sequence).push(")");
        }
        query.push(" order by c.detected_at, c.partition, c.sequence limit ");
        query.push_bind(limit.min(PAGE_MAX));
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }

    /// Notes that a conflict was dealt with. Of several under one number, which
    /// was given out twice, the first that is open.
    pub async fn resolve_conflict(
        &self,
        partition: u16,
        sequence: i64,
        signature: &Signature,
    ) -> Result<Acted<()>, Error> {
        let mut transaction = self.pool.begin().await?;
        let found: Option<(String, String, String)> = sqlx::query_as(
            "select transaction_reference, state, stream_id from conflicts
             where partition = $1 and sequence = $2
             order by state = 'open' desc, detected_at limit 1 for update",
        )
        .bind(i32::from(partition))
        .bind(sequence)
        .fetch_optional(&mut *transaction)
        .await?;
        let place = json!({ "partition": partition, "sequence": sequence });
        let Some((reference, state, stream_id)) = found else {
            let text = format!("there is no conflict on partition {partition} at {sequence}");
            return Ok(Err(Refusal::Missing(text)));
        };
        if state != "open" {
            let by = by_whom(&mut transaction, &reference, RESOLVED, &place).await?;
            let text = format!("the conflict about {reference} was resolved {by}");
            return Ok(Err(Refusal::Settled(text)));
        }
        sqlx::query(
            "update conflicts set state = 'resolved', resolved_at = clock_timestamp()
             where partition = $1 and sequence = $2 and stream_id = $3",
        )
        .bind(i32::from(partition))
        .bind(sequence)
        .bind(stream_id)
        .execute(&mut *transaction)
        .await?;
        let stands =
            |state: &str| json!({ "partition": partition, "sequence": sequence, "state": state });
        let (before, after) = (stands("open"), stands("resolved"));
        let change = Change { action: RESOLVED, subject: &reference, before, after };
        note(&mut transaction, signature, &change).await?;
        transaction.commit().await?;
        Ok(Ok(()))
    }
}
