//! The statements that put decisions into the ledger. Each is one round trip
//! for a whole batch; none decides anything.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgConnection;

use super::{Error, parking};
use crate::domain::{Book, Decision, Delivery, Fence, Outcome, PaymentStatus, Standing, StreamId};

/// A fence row as the batch found it: the epoch under which rows are written.
pub(super) type Epochs = BTreeMap<u16, i64>;

/// Partitions and epochs, each as one parameter of a statement.
pub(super) fn columns(fences: &[Fence]) -> (Vec<i32>, Vec<i64>) {
    fences.iter().map(|fence| (i32::from(fence.partition), fence.epoch)).unzip()
}

/// What a batch adds to one partition's totals.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) applied: i64,
    pub(super) recorded: i64,
    pub(super) rejected: i64,
    pub(super) suspense: i64,
    pub(super) conflicts: i64,
    pub(super) duplicates: i64,
    pub(super) dead_letters: i64,
    pub(super) parked: i64,
    pub(super) amount: Decimal,
}

pub(super) type Tallies = BTreeMap<u16, Tally>;

/// How far the ledger has come with a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The highest sequence that it has,
    pub sequence: i64,
    /// and its entry.
    pub stream_id: StreamId,
    /// The highest entry whose fate it knows, also when that has no sequence.
    pub reached: StreamId,
    /// The highest sequence that is known to have been given out.
    pub head: i64,
}

/// Where partitions stand.
pub(super) type Cursors = BTreeMap<u16, Cursor>;

/// The entry of a row that is there only until its transaction ends.
const CLAIM: &str = "claim";

/// Columns of `processed_transactions`, one value per row.
#[derive(Default)]
struct Columns<'a> {
    references: Vec<&'a str>,
    statuses: Vec<&'a str>,
    customers: Vec<&'a str>,
    amounts: Vec<Decimal>,
    outcomes: Vec<&'a str>,
    reasons: Vec<Option<&'a str>>,
    applied: Vec<Decimal>,
    excess: Vec<Decimal>,
    balances: Vec<Option<Decimal>>,
    versions: Vec<Option<i64>>,
    partitions: Vec<i32>,
    sequences: Vec<i64>,
    stream_ids: Vec<String>,
    epochs: Vec<i64>,
    dates: Vec<DateTime<Utc>>,
    received: Vec<DateTime<Utc>>,
    digests: Vec<&'a [u8]>,
    traces: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, delivery: &'a Delivery, epoch: i64, stream_id: String) {
        let Delivery { payment, digest, .. } = delivery;
        self.references.push(payment.reference.as_str());
        self.statuses.push(payment.status.as_str());
        self.customers.push(payment.customer.as_str());
        self.amounts.push(payment.amount.get());
        self.partitions.push(i32::from(delivery.partition));
        self.sequences.push(delivery.sequence);
        self.stream_ids.push(stream_id);
        self.epochs.push(epoch);
        self.dates.push(payment.date);
        self.received.push(delivery.received_at);
        self.digests.push(&digest.0);
        self.traces.push(trace(delivery));
    }

    fn push_outcome(
        &mut self,
        outcome: &'a str,
        parts: (Decimal, Decimal),
        after: Option<Standing>,
    ) {
        self.outcomes.push(outcome);
        self.applied.push(parts.0);
        self.excess.push(parts.1);
        self.balances.push(after.map(|after| after.balance));
        self.versions.push(after.map(|after| after.version));
    }

    /// Takes the key of a payment that is held, as `migrations/0014_one_place.sql`
    /// does: here among all keys of the batch, in their order.
    fn push_claim(&mut self, delivery: &'a Delivery, epoch: i64) {
        self.push(delivery, epoch, CLAIM.to_owned());
        let moves_money = delivery.payment.status == PaymentStatus::Complete;
        let outcome = if moves_money { "rejected" } else { "recorded" };
        self.push_outcome(outcome, (Decimal::ZERO, Decimal::ZERO), None);
        self.reasons.push(moves_money.then_some("claimed"));
    }

    async fn insert(self, connection: &mut PgConnection) -> Result<(), Error> {
        if self.references.is_empty() {
            return Ok(());
        }
        let rows = self.references.len();
        let inserted = sqlx::query(
            "insert into processed_transactions (transaction_reference, payment_status, customer_id,
                 amount, outcome, reason, applied_amount, excess_amount, balance_after,
                 account_version, partition, sequence, stream_id, epoch, transaction_date,
                 received_at, payload_digest, trace_id)
             select * from unnest($1::text[], $2::text[], $3::text[], $4::numeric[], $5::text[],
                 $6::text[], $7::numeric[], $8::numeric[], $9::numeric[], $10::bigint[],
                 $11::int[], $12::bigint[], $13::text[], $14::bigint[], $15::timestamptz[],
                 $16::timestamptz[], $17::bytea[], $18::bytea[])",
        )
        .bind(self.references)
        .bind(self.statuses)
        .bind(self.customers)
        .bind(self.amounts)
        .bind(self.outcomes)
        .bind(self.reasons)
        .bind(self.applied)
        .bind(self.excess)
        .bind(self.balances)
        .bind(self.versions)
        .bind(self.partitions)
        .bind(self.sequences)
        .bind(self.stream_ids)
        .bind(self.epochs)
        .bind(self.dates)
        .bind(self.received)
        .bind(self.digests)
        .bind(self.traces)
        .execute(connection)
        .await?;
        expect_rows(inserted.rows_affected(), rows)
    }
}

/// Writes decisions and counts them. Accounts are written by
/// [`update_accounts`].
pub(super) async fn insert_decisions(
    connection: &mut PgConnection,
    decisions: &[Decision<'_>],
    epochs: &Epochs,
    tallies: &mut Tallies,
) -> Result<(), Error> {
    // All batches take keys in one order, so that no two wait for each other.
    let mut decisions: Vec<_> = decisions.iter().collect();
    decisions.sort_by_key(|decision| decision.delivery.payment.reference.as_str());
    let mut columns = Columns::default();
    let (mut held, mut conflicting, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    let mut parked = Vec::new();
    for Decision { delivery, outcome } in decisions {
        let epoch = epochs.get(&delivery.partition).copied().ok_or(Error::Fenced)?;
        let tally = tallies.entry(delivery.partition).or_default();
        match *outcome {
            Outcome::Applied { applied, excess, after } => {
                columns.push(delivery, epoch, delivery.stream_id.to_string());
                columns.push_outcome("applied", (applied, excess), Some(after));
                columns.reasons.push(None);
                tally.applied += 1;
                tally.amount += applied + excess;
            }
            Outcome::Recorded { after } => {
                columns.push(delivery, epoch, delivery.stream_id.to_string());
                columns.push_outcome("recorded", (Decimal::ZERO, Decimal::ZERO), after);
                columns.reasons.push(None);
                tally.recorded += 1;
            }
            Outcome::Rejected { refusal, after } => {
                columns.push(delivery, epoch, delivery.stream_id.to_string());
                columns.push_outcome("rejected", (Decimal::ZERO, Decimal::ZERO), Some(after));
                columns.reasons.push(Some(refusal.code()));
                tally.rejected += 1;
            }
            Outcome::Suspense => {
                columns.push_claim(delivery, epoch);
                held.push((delivery, epoch));
                tally.suspense += 1;
            }
            Outcome::Parked => {
                columns.push_claim(delivery, epoch);
                parked.push((delivery, epoch));
                tally.parked += 1;
            }
            Outcome::Conflict => conflicting.push((delivery, epoch)),
            Outcome::Duplicate => repeated.push((delivery, epoch)),
            Outcome::Redelivered => {}
        }
    }
    columns.insert(connection).await?;
    let claimed = held.iter().chain(&parked).map(|(d, _)| d.payment.reference.as_str());
    drop_claims(connection, claimed.collect()).await?;
    // The rare ones go one by one.
    for (delivery, epoch) in held {
        insert_suspense(connection, delivery, epoch).await?;
    }
    for (delivery, epoch) in parked {
        parking::insert(connection, delivery, epoch).await?;
    }
    for (delivery, epoch) in conflicting {
        if insert_conflict(connection, delivery, epoch).await? {
            tallies.entry(delivery.partition).or_default().conflicts += 1;
        }
    }
    for (delivery, epoch) in repeated {
        if insert_duplicate(connection, delivery, epoch).await? {
            tallies.entry(delivery.partition).or_default().duplicates += 1;
        }
    }
    Ok(())
}

/// Their keys stay taken until the transaction ends.
async fn drop_claims(connection: &mut PgConnection, claimed: Vec<&str>) -> Result<(), Error> {
    if claimed.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "delete from processed_transactions
         where transaction_reference = any($1) and stream_id = $2",
    )
    .bind(claimed)
    .bind(CLAIM)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_suspense(
    connection: &mut PgConnection,
    delivery: &Delivery,
    epoch: i64,
) -> Result<(), Error> {
    let payment = &delivery.payment;
    sqlx::query(
        "insert into suspense (transaction_reference, customer_id, amount, partition, sequence,
             stream_id, epoch, transaction_date, received_at, payload_digest, trace_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(payment.reference.as_str())
    .bind(payment.customer.as_str())
    .bind(payment.amount.get())
    .bind(i32::from(delivery.partition))
    .bind(delivery.sequence)
    .bind(delivery.stream_id.to_string())
    .bind(epoch)
    .bind(payment.date)
    .bind(delivery.received_at)
    .bind(delivery.digest.0.as_slice())
    .bind(trace(delivery))
    .execute(connection)
    .await?;
    Ok(())
}

/// False when a redelivery put it there before.
async fn insert_conflict(
    connection: &mut PgConnection,
    delivery: &Delivery,
    epoch: i64,
) -> Result<bool, Error> {
    let insert =
        "insert into conflicts (partition, sequence, transaction_reference, payment_status,
             customer_id, amount, stream_id, epoch, transaction_date, received_at, payload_digest,
             trace_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict do nothing";
    Ok(insert_whole(connection, insert, delivery, epoch).await? == 1)
}

/// Inserts all there is to know of a delivery; says how many rows that made.
pub(super) async fn insert_whole(
    connection: &mut PgConnection,
    insert: &'static str,
    delivery: &Delivery,
    epoch: i64,
) -> Result<u64, Error> {
    let payment = &delivery.payment;
    let inserted = sqlx::query(insert)
        .bind(i32::from(delivery.partition))
        .bind(delivery.sequence)
        .bind(payment.reference.as_str())
        .bind(payment.status.as_str())
        .bind(payment.customer.as_str())
        .bind(payment.amount.get())
        .bind(delivery.stream_id.to_string())
        .bind(epoch)
        .bind(payment.date)
        .bind(delivery.received_at)
        .bind(delivery.digest.0.as_slice())
        .bind(trace(delivery))
        .execute(connection)
        .await?;
    Ok(inserted.rows_affected())
}

fn trace(delivery: &Delivery) -> Option<&[u8]> {
    delivery.trace.as_ref().map(|trace| trace.trace_id.as_bytes().as_slice())
}

/// False when a redelivery put it there before.
async fn insert_duplicate(
    connection: &mut PgConnection,
    delivery: &Delivery,
    epoch: i64,
) -> Result<bool, Error> {
    let inserted = sqlx::query(
        "insert into duplicates (partition, sequence, transaction_reference, payment_status,
             stream_id, epoch, received_at)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
    )
    .bind(i32::from(delivery.partition))
    .bind(delivery.sequence)
    .bind(delivery.payment.reference.as_str())
    .bind(delivery.payment.status.as_str())
    .bind(delivery.stream_id.to_string())
    .bind(epoch)
    .bind(delivery.received_at)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Moves the accounts that the book changed; each must still have the version
/// it was read with.
pub(super) async fn update_accounts(
    connection: &mut PgConnection,
    book: &Book,
) -> Result<(), Error> {
    let (mut customers, mut paid, mut credits) = (Vec::new(), Vec::new(), Vec::new());
    let (mut counts, mut versions, mut were) = (Vec::new(), Vec::new(), Vec::new());
    for (account, was) in book.touched() {
        customers.push(account.customer.as_str());
        paid.push(account.total_paid);
        credits.push(account.credit);
        counts.push(account.payment_count);
        versions.push(account.version);
        were.push(was);
    }
    if customers.is_empty() {
        return Ok(());
    }
    let rows = customers.len();
    let updated = sqlx::query(
        "update customer_accounts a
         set total_paid = u.total_paid, credit = u.credit, payment_count = u.payment_count,
             version = u.version, updated_at = clock_timestamp()
         from unnest($1::text[], $2::numeric[], $3::numeric[], $4::bigint[], $5::bigint[], $6::bigint[])
              as u (customer_id, total_paid, credit, payment_count, version, was)
         where a.customer_id = u.customer_id and a.version = u.was",
    )
    .bind(customers)
    .bind(paid)
    .bind(credits)
    .bind(counts)
    .bind(versions)
    .bind(were)
    .execute(connection)
    .await?;
    expect_rows(updated.rows_affected(), rows)
}

/// Adds what a batch did to its partitions' totals, and moves cursors. Their rows
/// are locked: none goes back.
pub(super) async fn advance(
    connection: &mut PgConnection,
    tallies: &Tallies,
    cursors: &Cursors,
) -> Result<(), Error> {
    let column = |pick: fn(&Tally) -> i64| tallies.values().map(pick).collect::<Vec<_>>();
    sqlx::query(
        "with moved as (
             update partition_owners p set last_sequence = c.sequence,
                 last_stream_id = c.stream_id, reached_stream_id = c.reached
             from unnest($11::int[], $12::bigint[], $13::text[], $14::text[])
                 as c (partition, sequence, stream_id, reached)
             where p.partition = c.partition)
         update partition_totals t
         set applied = t.applied + u.applied, recorded = t.recorded + u.recorded,
             rejected = t.rejected + u.rejected, suspense = t.suspense + u.suspense,
             conflicts = t.conflicts + u.conflicts, duplicates = t.duplicates + u.duplicates,
             dead_letters = t.dead_letters + u.dead_letters, parked = t.parked + u.parked,
             amount = t.amount + u.amount
         from unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
                     $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::numeric[])
              as u (partition, applied, recorded, rejected, suspense, conflicts, duplicates,
                    dead_letters, parked, amount)
         where t.partition = u.partition",
    )
    .bind(tallies.keys().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
    .bind(column(|tally| tally.applied))
    .bind(column(|tally| tally.recorded))
    .bind(column(|tally| tally.rejected))
    .bind(column(|tally| tally.suspense))
    .bind(column(|tally| tally.conflicts))
    .bind(column(|tally| tally.duplicates))
    .bind(column(|tally| tally.dead_letters))
    .bind(column(|tally| tally.parked))
    .bind(tallies.values().map(|tally| tally.amount).collect::<Vec<_>>())
    .bind(cursors.keys().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
    .bind(cursors.values().map(|cursor| cursor.sequence).collect::<Vec<_>>())
    .bind(cursors.values().map(|cursor| cursor.stream_id.to_string()).collect::<Vec<_>>())
    .bind(cursors.values().map(|cursor| cursor.reached.to_string()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A statement that touched another number of rows than was decided means that
/// something moved meanwhile: roll back and decide again.
pub(super) fn expect_rows(affected: u64, wanted: usize) -> Result<(), Error> {
    if usize::try_from(affected).is_ok_and(|affected| affected == wanted) {
        Ok(())
    } else {
        Err(Error::Raced)
    }
}
