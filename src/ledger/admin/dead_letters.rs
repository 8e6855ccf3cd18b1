//! Redrives and discards dead letters. Never removes one.

use futures_util::FutureExt;
use serde_json::json;
use sqlx::FromRow;

use super::{
    Acted, AdminStore, Refusal, SettledCase, Signature,
    audit_log::{Change, by_whom, note},
};
use crate::{
    domain::{Delivery, Outcome, StreamId, two_places},
    ledger::{
        Error,
        cursors::Cursors,
        lookups,
        session::{Session, commit},
        settling::{self, Settling, decided},
    },
};

impl AdminStore {
    /// Why a dead letter cannot be dealt with any more; nothing while it can.
    pub async fn dead_letter_refusal(&self, id: i64) -> Result<Option<Refusal>, Error> {
        let mut transaction = self.pool.begin().await?;
        let letter = lock_letter(&mut transaction, id).await?;
        transaction.rollback().await?;
        Ok(letter.err())
    }

    /// Settles a dead letter now, read as `delivery`, in one transaction that
    /// also marks it. What cannot be settled stays dead. With `dry_run`, says
    /// what would come of it and changes nothing.
    ///
    /// A customer that is parked stays so; its dead letter is settled all the
    /// same, because what is parked waits for it.
    pub async fn redrive(
        &self,
        id: i64,
        delivery: &Delivery,
        signature: &Signature,
        dry_run: bool,
    ) -> Result<Acted<SettledCase>, Error> {
        let attempt = || self.redrive_once(id, delivery, signature, dry_run).boxed();
        match settling::insist_on(&self.pool, &delivery.payment.customer, attempt).await {
            Err(error) if error.is_of_a_delivery() => Ok(Err(Refusal::Impossible(format!(
                "dead letter {id} still cannot be settled and stays dead: {}",
                error.sentence()
            )))),
            result => result,
        }
    }

    async fn redrive_once(
        &self,
        id: i64,
        delivery: &Delivery,
        signature: &Signature,
        dry_run: bool,
    ) -> Result<Acted<SettledCase>, Error> {
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        let customer = &delivery.payment.customer;
        let epochs =
            settling::lock(connection, &[customer], &[delivery.partition], &self.topology).await?;
        let letter = match lock_letter(connection, id).await? {
            Ok(letter) => letter,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !letter.holds(delivery) {
            let text = format!("dead letter {id} is another entry than the one that was read");
            return Ok(Err(Refusal::Impossible(text)));
        }
        let trace = delivery.trace.or(lookups::trace(letter.trace_id.as_deref())?);
        let deliveries = [Delivery { trace, ..delivery.clone() }];
        let stands = Cursors::new();
        let mut settling = Settling::open(connection, epochs, stands, &deliveries).await?;
        let parked = settling.book.unpark();
        let outcome = decided(&settling.settle(connection, &deliveries).await?)?;
        let waits = outcome == Outcome::Duplicate
            && lookups::is_parked(connection, &delivery.payment.reference).await?;
        let balance_after = outcome.after().map(|after| after.balance);
        let redriven =
            SettledCase { waits, outcome: outcome.as_str().to_owned(), balance_after, parked };
        // Where it stood is known now, if it could not be read before.
        sqlx::query(
            "update dead_letters set state = 'redriven', resolved_at = clock_timestamp(),
                 sequence = coalesce(sequence, $2),
                 transaction_reference = coalesce(transaction_reference, $3),
                 customer_id = coalesce(customer_id, $4), amount = coalesce(amount, $5)
             where id = $1",
        )
        .bind(id)
        .bind(delivery.sequence)
        .bind(delivery.payment.reference.as_str())
        .bind(customer.as_str())
        .bind(delivery.payment.amount.get())
        .execute(&mut *connection)
        .await?;
        let balance = redriven.balance_after.map(|balance| two_places(balance).to_string());
        let change = Change {
            action: REDRIVEN,
            subject: &letter.subject(id),
            before: json!({ "dead_letter": id, "state": "dead" }),
            after: json!({
                "dead_letter": id, "state": "redriven", "outcome": redriven.outcome,
                "balance_after": balance,
            }),
        };
        note(connection, signature, &change).await?;
        match dry_run {
            true => transaction.rollback().await?,
            false => commit(transaction).await?,
        }
        Ok(Ok(redriven))
    }

    pub async fn discard(&self, id: i64, signature: &Signature) -> Result<Acted<()>, Error> {
        let mut transaction = self.pool.begin().await?;
        let letter = match lock_letter(&mut transaction, id).await? {
            Ok(letter) => letter,
            Err(refusal) => return Ok(Err(refusal)),
        };
        sqlx::query(
            "update dead_letters set state = 'discarded', resolved_at = clock_timestamp()
             where id = $1",
        )
        .bind(id)
        .execute(&mut *transaction)
        .await?;
        let change = Change {
            action: DISCARDED,
            subject: &letter.subject(id),
            before: json!({ "dead_letter": id, "state": "dead" }),
            after: json!({ "dead_letter": id, "state": "discarded" }),
        };
        note(&mut transaction, signature, &change).await?;
        commit(transaction).await?;
        Ok(Ok(()))
    }
}

const REDRIVEN: &str = "dead_letter_redriven";
const DISCARDED: &str = "dead_letter_discarded";

/// A dead letter that nobody else can change meanwhile.
#[derive(FromRow)]
struct Locked {
    partition: i32,
    stream_id: String,
    transaction_reference: Option<String>,
    state: String,
    trace_id: Option<Vec<u8>>,
}

impl Locked {
    /// By what the log of changes knows it.
    fn subject(&self, id: i64) -> String {
        self.transaction_reference.clone().unwrap_or_else(|| format!("dead letter {id}"))
    }

    fn holds(&self, delivery: &Delivery) -> bool {
        let id = self.stream_id.parse::<StreamId>().ok();
        self.partition == i32::from(delivery.partition) && id == Some(delivery.stream_id)
    }
}

/// Locks a dead letter, unless somebody has dealt with it.
async fn lock_letter(connection: &mut Session, id: i64) -> Result<Acted<Locked>, Error> {
    let letter: Option<Locked> = sqlx::query_as(
        "select partition, stream_id, transaction_reference, state, trace_id from dead_letters
         where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(letter) = letter else {
        return Ok(Err(Refusal::Missing(format!("there is no dead letter {id}"))));
    };
    let action = match letter.state.as_str() {
        "dead" => return Ok(Ok(letter)),
        "redriven" => REDRIVEN,
        _ => DISCARDED,
    };
    let by =
        by_whom(connection, &letter.subject(id), action, &json!({ "dead_letter": id })).await?;
    let text = format!("dead letter {id} was {} {by}", letter.state);
    Ok(Err(Refusal::Settled(text)))
}
