//! Posts batches, each in one fenced transaction.

use serde_json::{Map, Value};
use sqlx::Row;

use super::{
    Error, LaneWriter,
    cursors::{self, Cursor, Cursors},
    in_time, lookups,
    losses::{self, Gap, Settled},
    rows,
    session::{Session, Transaction, commit},
    settling::Settling,
};
use crate::domain::{
    Amount, CustomerId, DeadEntry, Decision, Delivery, Fence, Outcome, PaymentState, StreamId,
};

#[derive(Clone, Debug)]
pub struct Burial {
    pub entry: DeadEntry,
    pub code: &'static str,
    pub attempts: u32,
    /// Whether its customer's later payments wait from now on.
    pub parks: bool,
}

impl LaneWriter {
    /// Opens a batch: checks and locks its fence rows, and reads all that the
    /// deliveries may touch.
    pub async fn open(
        &mut self,
        fences: &[Fence],
        deliveries: &[Delivery],
    ) -> Result<Batch<'_>, Error> {
        let mut transaction = self.connection.begin().await?;
        let stands = cursors::lock(&mut transaction, &self.worker, fences).await?;
        let epochs = fences.iter().map(|fence| (fence.partition, fence.epoch)).collect();
        let settling = Settling::open(&mut transaction, epochs, stands, deliveries).await?;
        Ok(Batch { transaction, settling, gone: Vec::new(), gaps: Vec::new() })
    }

    /// Why a batch of these was raced each time: nothing else writes these accounts while
    /// their partition is locked, so one may not be what its statement says.
    pub async fn damage(&mut self, deliveries: &[Delivery]) -> Result<Error, Error> {
        let customers = deliveries.iter().map(|d| d.payment.customer.as_str()).collect();
        let asking = async |session: &mut Session| lookups::damage(session, customers).await;
        in_time(self.patience, self.connection.ask(asking)).await
    }

    pub async fn is_copy(&mut self, delivery: &Delivery) -> Result<bool, Error> {
        let asking = async |session: &mut Session| lookups::is_copy(session, delivery).await;
        in_time(self.patience, self.connection.ask(asking)).await
    }
}

/// An open transaction that settles entries of the stream. Dropped, it rolls back.
pub struct Batch<'a> {
    transaction: Transaction<'a>,
    settling: Settling,
    gone: Vec<(u16, StreamId)>,
    gaps: Vec<Gap>,
}

impl Batch<'_> {
    pub fn stand(&self, partition: u16) -> Option<Cursor> {
        self.settling.stands.get(&partition).copied()
    }

    /// Whether the ledger has an outcome of this very entry.
    pub async fn has_settled(&mut self, delivery: &Delivery) -> Result<bool, Error> {
        let settled = sqlx::query_scalar(
            "select exists (select from payment_outcomes
                 where transaction_reference = $1 and partition = $2
                     and (stream_id = $4 or takes_reference and sequence = $3)
                     and counted_as is distinct from 'dead_lettered')
                 or exists (select from used_references
                     where transaction_reference = $1 and partition = $2 and sequence = $3)",
        );
        let settled = settled.bind(delivery.payment.reference.as_str());
        let settled = settled.bind(i32::from(delivery.partition)).bind(delivery.sequence);
        let settled = settled.bind(delivery.stream_id.to_string());
        Ok(settled.fetch_one(&mut *self.transaction).await?)
    }

    /// Lets the cursor pass an entry that was deleted before it was settled.
    pub fn pass(&mut self, partition: u16, id: StreamId) {
        self.gone.push((partition, id));
    }

    /// Decides about the deliveries with which the batch was opened, in stream order, and
    /// writes decisions, dead letters and cursors. Says what was decided.
    ///
    /// # Errors
    /// [`Error::Raced`] when something moved meanwhile: begin again. Nothing
    /// is visible before [`Batch::commit`].
    pub async fn settle(
        &mut self,
        deliveries: &[Delivery],
        burials: &[Burial],
    ) -> Result<Vec<Outcome>, Error> {
        let Self { transaction, settling, gone, gaps } = self;
        let decisions = settling.decide(deliveries)?;
        let settled = settled(&decisions, burials);
        let kept = without_copies(transaction, &settling.stands, &decisions).await?;
        settling.write(transaction, &kept).await?;
        let Settling { epochs, stands, tallies, .. } = settling;
        for burial in burials {
            let partition = burial.entry.partition;
            let epoch = epochs.get(&partition).copied().ok_or(Error::Fenced)?;
            if insert_dead_letter(transaction, burial, epoch).await? {
                tallies.entry(partition).or_default().add(PaymentState::DeadLettered, 1);
            }
            if let Some(customer) = burial.entry.customer.as_ref().filter(|_| burial.parks) {
                park(transaction, customer).await?;
            }
        }
        losses::note_reuse(transaction, stands, &kept).await?;
        *gaps = losses::note_gaps(transaction, stands, &settled).await?;
        let buried = burials.iter().map(|Burial { entry, .. }| (entry.partition, entry.stream_id));
        let cursors = moved(stands, &settled, buried.chain(gone.iter().copied()));
        rows::advance(transaction, tallies, &cursors).await?;
        Ok(decisions.iter().map(|decision| decision.outcome).collect())
    }

    /// Makes the batch durable; says which sequences it found missing.
    ///
    /// # Errors
    /// After an outage here it is not known whether the batch is in the
    /// ledger; opening it again tells.
    pub async fn commit(self) -> Result<Vec<Gap>, Error> {
        commit(self.transaction).await?;
        Ok(self.gaps)
    }
}

/// Decisions without those about copies of settled entries under settled sequences: a copy has
/// no outcome of its own.
async fn without_copies<'a>(
    connection: &mut Session,
    stands: &Cursors,
    decisions: &[Decision<'a>],
) -> Result<Vec<Decision<'a>>, Error> {
    let mut kept = Vec::with_capacity(decisions.len());
    for decision in decisions {
        let Decision { delivery, outcome } = *decision;
        let stand = stands.get(&delivery.partition);
        let is_settled = stand.is_some_and(|stand| delivery.sequence <= stand.sequence);
        let may_be = is_settled && outcome == Outcome::Duplicate;
        if !may_be || !lookups::is_copy(connection, delivery).await? {
            kept.push(*decision);
        }
    }
    Ok(kept)
}

/// False when a redelivery put it there before.
async fn insert_dead_letter(
    connection: &mut Session,
    burial: &Burial,
    epoch: i64,
) -> Result<bool, Error> {
    let Burial { entry, code, attempts, .. } = burial;
    let fields: Map<String, Value> =
        entry.fields.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    // PostgreSQL's jsonb has no NUL character.
    let fields = Value::Object(fields).to_string().replace("\\u0000", "\\ufffd");
    let inserted = sqlx::query(
        "insert into dead_letters (partition, stream_id, sequence, transaction_reference, code,
             reason, entry, attempts, epoch, customer_id, amount, trace_id)
         values ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11, $12)
         on conflict do nothing returning id",
    )
    .bind(i32::from(entry.partition))
    .bind(entry.stream_id.to_string())
    .bind(entry.sequence)
    .bind(entry.reference.as_deref())
    .bind(code)
    .bind(entry.reason.replace('\0', "\u{fffd}"))
    .bind(fields)
    .bind(i32::try_from(*attempts).unwrap_or(i32::MAX))
    .bind(epoch)
    .bind(entry.customer.as_ref().map(CustomerId::as_str))
    .bind(entry.amount.map(Amount::get))
    .bind(entry.trace_id.as_ref().map(|id| id.as_bytes().as_slice()))
    .fetch_optional(connection)
    .await?;
    Ok(inserted.is_some_and(|row| row.try_get::<i64, _>(0).is_ok()))
}

async fn park(connection: &mut Session, customer: &CustomerId) -> Result<(), Error> {
    sqlx::query(
        "update customer_accounts set parked_at = clock_timestamp()
         where customer_id = $1 and parked_at is null",
    )
    .bind(customer.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

fn settled(decisions: &[Decision<'_>], burials: &[Burial]) -> Vec<Settled> {
    let decided = decisions.iter().map(|decision| decision.delivery);
    let decided = decided.map(|d| (d.partition, d.stream_id, d.sequence));
    let buried = burials.iter().map(|burial| &burial.entry);
    let buried = buried.filter_map(|e| Some((e.partition, e.stream_id, e.sequence?)));
    let mut settled: Vec<Settled> = decided.chain(buried).collect();
    settled.sort_unstable();
    settled
}

/// How far the batch brings those of its partitions that it moves. `others` were
/// dealt with too, and may have no sequence.
fn moved(
    stands: &Cursors,
    settled: &[Settled],
    others: impl Iterator<Item = (u16, StreamId)>,
) -> Cursors {
    let mut cursors = stands.clone();
    for (partition, id, sequence) in settled {
        let Some(cursor) = cursors.get_mut(partition) else { continue };
        if *sequence > cursor.sequence {
            (cursor.sequence, cursor.stream_id) = (*sequence, *id);
        }
        cursor.reached = cursor.reached.max(*id);
    }
    for (partition, id) in others {
        if let Some(cursor) = cursors.get_mut(&partition) {
            cursor.reached = cursor.reached.max(id);
        }
    }
    cursors.retain(|partition, cursor| stands.get(partition) != Some(cursor));
    cursors
}
