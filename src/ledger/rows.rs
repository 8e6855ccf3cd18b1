//! The statements that write decisions to the ledger: one round trip each for a whole batch.
//! Never decides anything.

use std::{collections::BTreeMap, sync::LazyLock};

use rust_decimal::Decimal;

use super::{Error, cursors::Cursors, session::Session};
use crate::domain::{BalanceAfter, Book, Decision, Delivery, Evidence, Outcome, PaymentState};

/// Epochs of the locked fence rows, by partition.
pub(super) type Epochs = BTreeMap<u16, i64>;

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

/// A row of `processed_transactions`.
struct StatementRow<'a> {
    delivery: &'a Delivery,
    epoch: i64,
    outcome: &'static str,
    reason: Option<&'static str>,
    /// Paid of what was outstanding, and beyond it.
    parts: (Decimal, Decimal),
    after: Option<BalanceAfter>,
}

async fn insert_rows(connection: &mut Session, rows: &[StatementRow<'_>]) -> Result<(), Error> {
    fn column<'a, T>(
        rows: &'a [StatementRow<'a>],
        value: impl Fn(&'a StatementRow<'a>) -> T,
    ) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    if rows.is_empty() {
        return Ok(());
    }
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
    .bind(column(rows, |row| row.delivery.payment.reference.as_str()))
    .bind(column(rows, |row| row.delivery.payment.status.as_str()))
    .bind(column(rows, |row| row.delivery.payment.customer.as_str()))
    .bind(column(rows, |row| row.delivery.payment.amount.get()))
    .bind(column(rows, |row| row.outcome))
    .bind(column(rows, |row| row.reason))
    .bind(column(rows, |row| row.parts.0))
    .bind(column(rows, |row| row.parts.1))
    .bind(column(rows, |row| row.after.map(|after| after.balance)))
    .bind(column(rows, |row| row.after.map(|after| after.version)))
    .bind(column(rows, |row| i32::from(row.delivery.partition)))
    .bind(column(rows, |row| row.delivery.sequence))
    .bind(column(rows, |row| row.delivery.stream_id.to_string()))
    .bind(column(rows, |row| row.epoch))
    .bind(column(rows, |row| row.delivery.payment.date))
    .bind(column(rows, |row| row.delivery.received_at))
    .bind(column(rows, |row| row.delivery.digest.0.as_slice()))
    .bind(column(rows, |row| trace(row.delivery)))
    .execute(connection)
    .await?;
    expect_rows(inserted.rows_affected(), rows.len())
}

/// Keeps what senders signed. A redelivery finds it kept.
async fn keep_evidence(connection: &mut Session, decisions: &[&Decision<'_>]) -> Result<(), Error> {
    let settled = decisions.iter().filter(|decision| decision.outcome != Outcome::Redelivered);
    let signed = settled.filter_map(|one| Some((one.delivery, one.delivery.evidence.as_deref()?)));
    let signed: Vec<(&Delivery, &Evidence)> = signed.collect();
    if signed.is_empty() {
        return Ok(());
    }
    let texts = |pick: fn(&Evidence) -> &str| {
        signed.iter().map(|(_, evidence)| pick(evidence)).collect::<Vec<_>>()
    };
    let deliveries = || signed.iter().map(|(delivery, _)| *delivery);
    sqlx::query(
        "insert into payment_evidence (partition, sequence, stream_id, transaction_reference,
             received_at, scheme, key_id, signature, signature_base, body)
         select * from unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[],
             $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
         on conflict do nothing",
    )
    .bind(deliveries().map(|one| i32::from(one.partition)).collect::<Vec<_>>())
    .bind(deliveries().map(|one| one.sequence).collect::<Vec<_>>())
    .bind(deliveries().map(|one| one.stream_id.to_string()).collect::<Vec<_>>())
    .bind(deliveries().map(|one| one.payment.reference.as_str()).collect::<Vec<_>>())
    .bind(deliveries().map(|one| one.received_at).collect::<Vec<_>>())
    .bind(texts(|evidence| &evidence.scheme))
    .bind(texts(|evidence| &evidence.key))
    .bind(texts(|evidence| &evidence.signature))
    .bind(texts(|evidence| &evidence.base))
    .bind(texts(|evidence| &evidence.body))
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes decisions and counts them. Accounts are written by
/// [`update_accounts`].
pub(super) async fn insert_decisions(
    connection: &mut Session,
    decisions: &[Decision<'_>],
    epochs: &Epochs,
    tallies: &mut Tallies,
) -> Result<(), Error> {
    // All batches take keys in one order, so that no two wait for each other.
    let mut decisions: Vec<_> = decisions.iter().collect();
    decisions.sort_by_key(|decision| decision.delivery.payment.reference.as_str());
    keep_evidence(&mut *connection, &decisions).await?;
    let mut rows = Vec::with_capacity(decisions.len());
    let (mut aside, mut holds) = (Vec::new(), false);
    for Decision { delivery, outcome } in &decisions {
        let epoch = epochs.get(&delivery.partition).copied().ok_or(Error::Fenced)?;
        let (parts, reason, after) = match *outcome {
            Outcome::Applied { applied, excess, after } => ((applied, excess), None, Some(after)),
            Outcome::Recorded { after } => (NOTHING, None, after),
            Outcome::Rejected { reason, after } => (NOTHING, Some(reason.code()), Some(after)),
            Outcome::Suspense | Outcome::Parked => {
                holds = true;
                let insert = if *outcome == Outcome::Parked { PARK } else { HOLD };
                aside.push((delivery, epoch, outcome.state(), insert));
                continue;
            }
            Outcome::Conflict | Outcome::Duplicate => {
                let insert = if *outcome == Outcome::Conflict { CONTRADICT } else { REPEAT };
                aside.push((delivery, epoch, outcome.state(), insert));
                continue;
            }
            Outcome::Redelivered => continue,
        };
        let (outcome, state) = (outcome.as_str(), outcome.state());
        rows.push(StatementRow { delivery, epoch, outcome, reason, parts, after });
        let tally = tallies.entry(delivery.partition).or_default();
        tally.add(state, 1);
        tally.amount += parts.0 + parts.1;
    }
    if holds {
        // What is held would take its key behind all others, out of the order.
        use_references(&mut *connection, &decisions).await?;
    }
    insert_rows(connection, &rows).await?;
    // The rare ones go one by one.
    for (delivery, epoch, state, insert) in aside {
        if insert_aside(connection, insert, delivery, epoch).await? {
            tallies.entry(delivery.partition).or_default().add(state, 1);
        }
    }
    Ok(())
}

const NOTHING: (Decimal, Decimal) = (Decimal::ZERO, Decimal::ZERO);

/// Takes the keys of a batch in their order, as the triggers of
/// `migrations/0024_used_references.sql` do of payments that are settled or held one by one.
async fn use_references(
    connection: &mut Session,
    decisions: &[&Decision<'_>],
) -> Result<(), Error> {
    let uses = |decision: &&&Decision<'_>| match decision.outcome {
        Outcome::Applied { .. }
        | Outcome::Recorded { .. }
        | Outcome::Rejected { .. }
        | Outcome::Suspense
        | Outcome::Parked => true,
        Outcome::Conflict | Outcome::Duplicate | Outcome::Redelivered => false,
    };
    let users: Vec<&Delivery> =
        decisions.iter().filter(uses).map(|decision| decision.delivery).collect();
    sqlx::query(
        "insert into used_references (transaction_reference, payment_status, payload_digest,
             partition, sequence)
         select * from unnest($1::text[], $2::text[], $3::bytea[], $4::int[], $5::bigint[])",
    )
    .bind(users.iter().map(|one| one.payment.reference.as_str()).collect::<Vec<_>>())
    .bind(users.iter().map(|one| one.payment.status.as_str()).collect::<Vec<_>>())
    .bind(users.iter().map(|one| one.digest.0.as_slice()).collect::<Vec<_>>())
    .bind(users.iter().map(|one| i32::from(one.partition)).collect::<Vec<_>>())
    .bind(users.iter().map(|one| one.sequence).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Statements that write a delivery to a table beside the accounts' statements.
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

/// False when the row exists: a redelivery wrote it before.
async fn insert_aside(
    connection: &mut Session,
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
pub(super) async fn update_accounts(connection: &mut Session, book: &Book) -> Result<(), Error> {
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
/// are locked: none goes back. Where no cursor moves, no right to move one is needed.
pub(super) async fn advance(
    connection: &mut Session,
    tallies: &Tallies,
    cursors: &Cursors,
) -> Result<(), Error> {
    static COUNT: LazyLock<String> = LazyLock::new(|| counting(1));
    static ADVANCE: LazyLock<String> = LazyLock::new(|| format!("{MOVE} {}", counting(5)));
    let statement = if cursors.is_empty() { &COUNT } else { &ADVANCE };
    let mut advance = sqlx::query(sqlx::AssertSqlSafe(statement.as_str()));
    if !cursors.is_empty() {
        advance = advance
            .bind(cursors.keys().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
            .bind(cursors.values().map(|cursor| cursor.sequence).collect::<Vec<_>>())
            .bind(cursors.values().map(|cursor| cursor.stream_id.to_string()).collect::<Vec<_>>())
            .bind(cursors.values().map(|cursor| cursor.reached.to_string()).collect::<Vec<_>>());
    }
    advance = advance
        .bind(tallies.keys().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
        .bind(tallies.values().map(|tally| tally.amount).collect::<Vec<_>>());
    for (state, _) in PaymentState::counted() {
        let counts = tallies.values().map(|tally| tally.counts[state as usize]);
        advance = advance.bind(counts.collect::<Vec<_>>());
    }
    advance.execute(connection).await?;
    Ok(())
}

const MOVE: &str = "with moved as (
         update partition_owners p set last_sequence = c.sequence,
             last_stream_id = c.stream_id, reached_stream_id = c.reached
         from unnest($1::int[], $2::bigint[], $3::text[], $4::text[])
             as c (partition, sequence, stream_id, reached)
         where p.partition = c.partition)";

/// The statement that counts, over every total that is declared; its parameters begin here.
fn counting(first: usize) -> String {
    let totals: Vec<_> = PaymentState::counted().map(|(_, total)| total).collect();
    let sums: Vec<_> =
        totals.iter().map(|total| format!("{total} = t.{total} + u.{total}")).collect();
    let counts = (first + 2..).take(totals.len()).map(|place| format!("${place}::bigint[]"));
    let counts: Vec<_> = counts.collect();
    let (totals, sums, counts) = (totals.join(", "), sums.join(", "), counts.join(", "));
    format!(
        "update partition_totals t set amount = t.amount + u.amount, {sums}
         from unnest(${first}::int[], ${}::numeric[], {counts}) as u (partition, amount, {totals})
         where t.partition = u.partition",
        first + 1
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
