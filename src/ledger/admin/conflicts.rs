//! Resolves conflicts: payments that came under a used reference with other content.
//! Never gives one an effect.

use serde_json::json;

use super::{
    Acted, AdminStore, Refusal, Signature,
    audit_log::{Change, by_whom, note},
};
use crate::ledger::{Error, session::commit};

const RESOLVED: &str = "conflict_resolved";

impl AdminStore {
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
            let text = format!("there is no conflict {partition}/{sequence}");
            return Ok(Err(Refusal::Missing(text)));
        };
        if state != "open" {
            let by = by_whom(&mut transaction, &reference, RESOLVED, &place).await?;
            let text =
                format!("the conflict {partition}/{sequence} about {reference} was resolved {by}");
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
        commit(transaction).await?;
        Ok(Ok(()))
    }
}
