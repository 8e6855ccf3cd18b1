//! The statements that put decisions into the ledger. Each is one round trip
//! for a whole batch; none decides anything.

use std::{collections::BTreeMap, sync::LazyLock};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgConnection;

use super::Error;
use crate::domain::{
    BalanceAfter, Book, Decision, Delivery, Fence, Outcome, PaymentState, PaymentStatus, StreamId,
};

/// A fence row as the batch found it: the epoch under which rows are written.
pub(super) type Epochs = BTreeMap<u16, i64>;

/// Partitions and epochs, each as one parameter of a statement.
pub(super) fn columns(fences: &[Fence]) -> (Vec<i32>, Vec<i64>) {
    fences.iter().map(|fence| (i32::from(fence.partition), fence.epoch)).unzip()
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    counts: [i64; PaymentState::ALL.len()],
    pub(super) amount: Decimal,
}

impl Tally {
    pub(super) fn add(&mut self, state: PaymentState, payments: i64) {
        self.counts[state as usize] += payments;
    }
}

pub(super) type Tallies = BTreeMap<u16, Tally>;

/// How far the ledger has come with a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The highest sequence that is settled, and its entry.
    pub sequence: i64,
    pub stream_id: StreamId,
    /// The highest entry whose fate it knows, also when that has no sequence.
    pub reached: StreamId,
    pub head: i64,
}

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
        reason: Option<&'a str>,
        after: Option<BalanceAfter>,
    ) {
        self.outcomes.push(outcome);
        self.reasons.push(reason);
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
        self.push_outcome(outcome, NOTHING, moves_money.then_some("claimed"), None);
    }

    /// References whose keys are taken by claims.
    fn claimed(&self) -> Vec<&'a str> {
        let rows = self.references.iter().zip(&self.stream_ids);
        rows.filter(|(_, id)| *id == CLAIM).map(|(reference, _)| *reference).collect()
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
    let mut aside = Vec::new();
    for Decision { delivery, outcome } in decisions {
        let epoch = epochs.get(&delivery.partition).copied().ok_or(Error::Fenced)?;
        let (parts, reason, after) = match *outcome {
            Outcome::Applied { applied, excess, after } => ((applied, excess), None, Some(after)),
            Outcome::Recorded { after } => (NOTHING, None, after),
            Outcome::Rejected { reason, after } => (NOTHING, Some(reason.code()), Some(after)),
            Outcome::Suspense => {
                columns.push_claim(delivery, epoch);
                aside.push((delivery, epoch, outcome.state(), HOLD));
                continue;
            }
            Outcome::Parked => {
                columns.push_claim(delivery, epoch);
                aside.push((delivery, epoch, outcome.state(), PARK));
                continue;
            }
            Outcome::Conflict => {
                aside.push((delivery, epoch, outcome.state(), CONTRADICT));
                continue;
            }
            Outcome::Duplicate => {
                aside.push((delivery, epoch, outcome.state(), REPEAT));
                continue;
            }
            Outcome::Redelivered => continue,
        };
        columns.push(delivery, epoch, delivery.stream_id.to_string());
        columns.push_outcome(outcome.as_str(), parts, reason, after);
        let tally = tallies.entry(delivery.partition).or_default();
        tally.add(outcome.state(), 1);
        tally.amount += parts.0 + parts.1;
    }
    let claimed = columns.claimed();
    columns.insert(connection).await?;
    drop_claims(connection, claimed).await?;
    // The rare ones go one by one.
    for (delivery, epoch, state, insert) in aside {
        if insert_aside(connection, insert, delivery, epoch).await? {
            tallies.entry(delivery.partition).or_default().add(state, 1);
        }
    }
    Ok(())
}

const NOTHING: (Decimal, Decimal) = (Decimal::ZERO, Decimal::ZERO);

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

/// Statements that put a delivery beside the accounts, given all there is to know of it.
const HOLD: &str = "insert into suspense (partition, sequence, transaction_reference, customer_id,
         amount, stream_id, epoch, transaction_date, received_at, payload_digest, trace_id)
     values ($1, $2, $3, $5, $6, $7, $8, $9, $10, $11, $12)";
const PARK: &str = "insert into parked (partition, sequence, transaction_reference, payment_status,
         customer_id, amount, stream_id, epoch, transaction_date, received_at, payload_digest,
         trace_id)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
const CONTRADICT: &str = "insert into conflicts (partition, sequence, transaction_reference,
         payment_status, customer_id, amount, stream_id, epoch, transaction_date, received_at,
         payload_digest, trace_id)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict do nothing";
const REPEAT: &str = "insert into duplicates (partition, sequence, transaction_reference,
         payment_status, stream_id, epoch, received_at)
     values ($1, $2, $3, $4, $7, $8, $10) on conflict do nothing";

/// False when a redelivery put it there before.
async fn insert_aside(
    connection: &mut PgConnection,
    insert: &'static str,
    delivery: &Delivery,
    epoch: i64,
) -> Result<bool, Error> {
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
    Ok(inserted.rows_affected() == 1)
}

fn trace(delivery: &Delivery) -> Option<&[u8]> {
    delivery.trace.as_ref().map(|trace| trace.trace_id.as_bytes().as_slice())
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
    static ADVANCE: LazyLock<String> = LazyLock::new(advancing);
    let mut advance = sqlx::query(sqlx::AssertSqlSafe(ADVANCE.as_str()))
        .bind(cursors.keys().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
        .bind(cursors.values().map(|cursor| cursor.sequence).collect::<Vec<_>>())
        .bind(cursors.values().map(|cursor| cursor.stream_id.to_string()).collect::<Vec<_>>())
        .bind(cursors.values().map(|cursor| cursor.reached.to_string()).collect::<Vec<_>>())
        .bind(tallies.keys().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
        .bind(tallies.values().map(|tally| tally.amount).collect::<Vec<_>>());
    for (state, _) in PaymentState::counted() {
        let counts = tallies.values().map(|tally| tally.counts[state as usize]);
        advance = advance.bind(counts.collect::<Vec<_>>());
    }
    advance.execute(connection).await?;
    Ok(())
}

/// The statement that advances, over every total that is declared.
fn advancing() -> String {
    let totals: Vec<_> = PaymentState::counted().map(|(_, total)| total).collect();
    let sums: Vec<_> =
        totals.iter().map(|total| format!("{total} = t.{total} + u.{total}")).collect();
    let counts: Vec<_> = (7..7 + totals.len()).map(|place| format!("${place}::bigint[]")).collect();
    let (totals, sums, counts) = (totals.join(", "), sums.join(", "), counts.join(", "));
    format!(
        "with moved as (
             update partition_owners p set last_sequence = c.sequence,
                 last_stream_id = c.stream_id, reached_stream_id = c.reached
             from unnest($1::int[], $2::bigint[], $3::text[], $4::text[])
                 as c (partition, sequence, stream_id, reached)
             where p.partition = c.partition)
         update partition_totals t set amount = t.amount + u.amount, {sums}
         from unnest($5::int[], $6::numeric[], {counts}) as u (partition, amount, {totals})
         where t.partition = u.partition"
    )
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
