//! The statements behind an audit. Each streams rows in the order that a
//! check needs, and none is kept. Never decides what is drift.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use rust_decimal::Decimal;
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    Error, Pace, Progress,
    accounts::{Accounts, Claim, Posted, Recomputed},
    findings::{Check, Findings},
    sequences::{Jump, Kind, Loss, Owed, Place, Sequences, Sums},
};
use crate::domain::{Digest, StreamId};

/// Comes after every customer's id.
const BEYOND_ALL: &str = "\u{10FFFF}";

/// Customers by their ids: from the one on, and before the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: String,
    /// Nothing is up to the last.
    pub(super) before: Option<String>,
}

impl Range {
    /// Every customer.
    pub(super) fn all() -> Self {
        Self { from: String::new(), before: None }
    }
}

/// Each account of a range, then its statement in the order of versions. Says
/// of each row that it was read.
pub(super) async fn statements(
    connection: &mut PgConnection,
    range: &Range,
    findings: &mut Findings,
    mut on_row: impl FnMut(),
) -> Result<Recomputed, Error> {
    let resizes = sqlx::query_scalar(
        // A loss right behind a resize is noted in its row.
        "select distinct resumes_at from sequence_jumps
         where 'resize' = any(kinds)
         order by 1",
    );
    let twice = sqlx::query_as(
        "select partition, after_sequence, resumes_at from sequence_jumps
         where 'twice' = any(kinds)",
    );
    let twice = twice.fetch_all(&mut *connection).await?;
    let mut accounts = Accounts::new(resizes.fetch_all(&mut *connection).await?).with_twice(twice);
    let mut rows = sqlx::query(
        "select customer_id, '-9223372036854775808'::bigint as version, null as outcome, asset_value as balance,
             total_paid as applied, credit as excess, null as amount, 0 as partition,
             payment_count as number, version as claimed, null as status, null::timestamptz as date,
             null::bytea as digest, null as sent_for, false as by_hand
         from customer_accounts where customer_id >= $1 and customer_id < $2
         union all
         select p.customer_id, account_version, outcome, balance_after, applied_amount,
             excess_amount, p.amount, p.partition, p.sequence, null,
             payment_status, p.transaction_date, p.payload_digest, s.customer_id,
             s.customer_id is not null or d.id is not null
         from processed_transactions p
         left join suspense s on s.assigned_to = p.customer_id and s.state = 'applied'
             and p.payment_status = 'COMPLETE'
             and (s.transaction_reference, s.partition, s.sequence)
                 = (p.transaction_reference, p.partition, p.sequence)
         left join dead_letters d on d.state = 'redriven'
             and (d.partition, d.stream_id) = (p.partition, p.stream_id)
         where account_version is not null and p.customer_id >= $1 and p.customer_id < $2
         order by customer_id, version",
    )
    .bind(&range.from)
    .bind(range.before.as_deref().unwrap_or(BEYOND_ALL))
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let customer: &str = row.try_get(0)?;
        match row.try_get::<Option<&str>, _>(2)? {
            None => accounts.open(customer, claim(&row)?, findings),
            Some(outcome) => accounts.post(customer, &posted(&row, customer, outcome)?, findings),
        }
        on_row();
    }
    Ok(accounts.conclude(findings))
}

fn claim(row: &PgRow) -> Result<Claim, Error> {
    Ok(Claim {
        asset_value: row.try_get(3)?,
        total_paid: row.try_get(4)?,
        credit: row.try_get(5)?,
        payment_count: row.try_get(8)?,
        version: row.try_get(9)?,
    })
}

fn posted(row: &PgRow, customer: &str, outcome: &str) -> Result<Posted, Error> {
    let amount: Decimal = row.try_get(6)?;
    let (status, date): (&str, DateTime<Utc>) = (row.try_get(10)?, row.try_get(11)?);
    let digest: &[u8] = row.try_get(12)?;
    // Money that was assigned has the digest of what was sent.
    let sent_for = row.try_get::<Option<&str>, _>(13)?.unwrap_or(customer);
    Ok(Posted {
        digest_holds: Digest::of(sent_for, status, amount, date).0 == digest,
        by_hand: row.try_get(14)?,
        version: row.try_get(1)?,
        applied_outcome: outcome == "applied",
        balance_after: row.try_get(3)?,
        applied: row.try_get(4)?,
        excess: row.try_get(5)?,
        amount,
        partition: row.try_get(7)?,
        sequence: row.try_get(8)?,
    })
}

/// What each partition's cursor and totals say that there is.
pub(super) async fn owed(connection: &mut PgConnection) -> Result<BTreeMap<i32, Owed>, Error> {
    let rows = sqlx::query(
        "select o.partition, o.last_sequence, coalesce(applied, 0), coalesce(recorded, 0),
             coalesce(rejected, 0), coalesce(suspense, 0), coalesce(conflicts, 0),
             coalesce(duplicates, 0), coalesce(dead_letters, 0), coalesce(parked, 0),
             coalesce(amount, 0)
         from partition_owners o left join partition_totals t using (partition)",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut owed = BTreeMap::new();
    for row in &rows {
        let sums = Sums {
            applied: row.try_get(2)?,
            recorded: row.try_get(3)?,
            rejected: row.try_get(4)?,
            suspense: row.try_get(5)?,
            conflicts: row.try_get(6)?,
            duplicates: row.try_get(7)?,
            dead_letters: row.try_get(8)?,
            parked: row.try_get(9)?,
            amount: row.try_get(10)?,
        };
        let partition = Owed { last_sequence: row.try_get(1)?, sums, ..Owed::default() };
        owed.insert(row.try_get(0)?, partition);
    }
    let jumps = sqlx::query(
        "select partition, after_sequence, resumes_at, reason <> 'resize' and state = 'open',
             lost_first, lost_last, detail
         from sequence_jumps order by partition, after_sequence",
    );
    for row in jumps.fetch_all(&mut *connection).await? {
        let jump = jump(&row)?;
        owed.entry(row.try_get(0)?).or_default().jumps.push(jump);
    }
    // Entries that could not be read so far have taken a sequence that nobody
    // knows; where they stood tells which.
    let mut unread = sqlx::query(
        "select partition, stream_id from dead_letters where sequence is null order by partition",
    )
    .fetch(connection);
    while let Some(row) = unread.try_next().await? {
        let id = row.try_get::<&str, _>(1)?.parse().map_err(|_| Error::Corrupt("stream id"))?;
        owed.entry(row.try_get(0)?).or_default().unread.push(id);
    }
    Ok(owed)
}

fn jump(row: &PgRow) -> Result<Jump, Error> {
    let lost: (Option<i64>, Option<i64>) = (row.try_get(4)?, row.try_get(5)?);
    let loss = Loss { sequences: lost.0.zip(lost.1), detail: row.try_get(6)? };
    let open: bool = row.try_get(3)?;
    let open = open.then_some(loss);
    Ok(Jump { after: row.try_get(1)?, resumes_at: row.try_get(2)?, open })
}

/// Every entry that has a sequence, in the order of the streams.
pub(super) async fn entries<F: FnMut(Progress)>(
    connection: &mut PgConnection,
    owed: BTreeMap<i32, Owed>,
    findings: &mut Findings,
    pace: &mut Pace<F>,
) -> Result<(u64, Decimal), Error> {
    // Stream ids make the sort wider, and few partitions need them.
    let unread: Vec<i32> = owed
        .iter()
        .filter(|(_, owed)| !owed.unread.is_empty())
        .map(|(number, _)| *number)
        .collect();
    let mut sequences = Sequences::new(owed);
    let mut rows = sqlx::query(
        "select partition, sequence, outcome as kind,
             case outcome when 'applied' then applied_amount + excess_amount end,
             case when partition = any($1) then stream_id end
         from processed_transactions
         union all
         select partition, sequence, 'suspense', null, case when partition = any($1) then stream_id end
         from suspense where state in ('held', 'refund_marked')
         union all
         select partition, sequence, 'parked', null, case when partition = any($1) then stream_id end
         from parked where state = 'held'
         union all
         select partition, sequence, 'conflict', null, case when partition = any($1) then stream_id end
         from conflicts
         union all
         select partition, sequence, 'duplicate', null, case when partition = any($1) then stream_id end
         from duplicates
         union all
         select partition, sequence, case state when 'redriven' then 'redriven' else 'dead' end, null,
             case when partition = any($1) then stream_id end
         from dead_letters where sequence is not null
         order by 1, 2",
    )
    .bind(unread)
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let id: Option<&str> = row.try_get(4)?;
        let id: Option<StreamId> =
            id.map(str::parse).transpose().map_err(|_| Error::Corrupt("stream id"))?;
        let place = Place {
            partition: row.try_get(0)?,
            sequence: row.try_get(1)?,
            kind: Kind::parse(row.try_get(2)?).ok_or(Error::Corrupt("outcome"))?,
            amount: row.try_get::<Option<Decimal>, _>(3)?.unwrap_or_default(),
            id,
        };
        sequences.take(&place, findings);
        pace.step();
    }
    Ok(sequences.conclude(findings))
}

/// References that are both applied and still held.
pub(super) async fn held_and_complete(
    connection: &mut PgConnection,
    findings: &mut Findings,
) -> Result<(), Error> {
    let held: i64 = sqlx::query_scalar(
        "select count(*) from suspense where state in ('held', 'refund_marked')",
    )
    .fetch_one(&mut *connection)
    .await?;
    findings.looked_at(Check::ReferenceTwice, u64::try_from(held).unwrap_or(0));
    let mut rows = sqlx::query(
        "select transaction_reference, s.state, p.outcome
         from suspense s join processed_transactions p using (transaction_reference)
         where p.payment_status = 'COMPLETE' and s.state in ('held', 'refund_marked')",
    )
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (state, outcome): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
        let detail = format!("is {state} in suspense and {outcome} in processed_transactions");
        findings.add(Check::ReferenceTwice, row.try_get::<&str, _>(0)?, detail);
    }
    Ok(())
}
