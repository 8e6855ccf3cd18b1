//! The self-audit: recomputes every account from its statement, accounts for every sequence of
//! every partition, and verifies the chain of the audit log.
//!
//! PostgreSQL answers by the table of checks; digests are made here. One read-only
//! transaction sees one moment, whatever is posted meanwhile. Rows are streamed and
//! forgotten, so that memory does not grow with the ledger. Never changes anything,
//! never locks what a worker needs, and never trusts a sum that the ledger keeps:
//! those are what it checks.

mod chain;
mod checks;
mod rounds;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{AssertSqlSafe, ConnectOptions, Row, postgres::PgRow};

use self::checks::{
    ACCOUNT, ARCHIVED, CONTENT_CHANGED, ENTRIES, HELD, JUMP, PARTITION, RELATIONS, ROW, Relation,
    SEQUENCE, USED,
};
pub use chain::{Checkpoint, LogPlace};
pub use rounds::{Rounds, Slice};

use super::{Error, address::Address};
use crate::domain::{Digest, PaymentState};
use crate::ledger::session::Session;

/// Rows between two reports of progress.
const PROGRESS_EVERY: u64 = 10_000;
/// Drifts that are kept with their details; all are counted.
const DRIFTS_KEPT: usize = 100;
/// Checks that are about every sequence.
const OF_SEQUENCES: [&str; 4] =
    ["sequence_gap", "sequence_twice", "sequence_beyond", "outcome_twice"];
/// Comes after every customer's id.
const BEYOND_ALL: &str = "\u{10FFFF}";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Accounts,
    Sequences,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditProgress {
    pub stage: Stage,
    /// Rows read in both stages; those of the second count when PostgreSQL has read all.
    pub done: u64,
    /// Rows to read in both stages, going by the ledger's own totals.
    pub total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    pub check: &'static str,
    /// Whose or what it is: a customer, a sequence, a reference, a partition.
    pub subject: String,
    /// What is there and what should be.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CheckCount {
    pub check: &'static str,
    /// Things looked at: accounts, rows, sequences or partitions.
    pub looked_at: u64,
    pub drift: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    pub accounts: u64,
    pub payments: u64,
    /// The sum of all that was applied, to balances and to credits.
    #[serde(skip)]
    pub amount: Decimal,
    pub sequences: u64,
    pub partitions: u64,
    pub checks: Vec<CheckCount>,
    /// The first 100 drifts.
    pub drifts: Vec<Drift>,
    pub drift_count: u64,
}

pub struct FullAudit {
    address: Address,
}

impl FullAudit {
    pub(super) fn new(address: &Address) -> Self {
        // Slow by nature, and its answer says what matters.
        let address = address
            .with(|options| options.application_name("paystream audit").disable_statement_logging())
            .set([
                ("statement_timeout", "0".to_owned()),
                // Sorting the whole ledger; more of it in memory is fewer passes.
                ("work_mem", "64MB".to_owned()),
                ("jit", "off".to_owned()),
            ]);
        Self { address }
    }

    /// Looks at everything, and says from time to time how far it is.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached or answers what we do not understand.
    /// Drift is not an error: it is in the report.
    pub async fn run(
        &self,
        checkpoints: &[Checkpoint],
        on_event: impl FnMut(AuditProgress),
    ) -> Result<AuditReport, Error> {
        let mut connection = self.address.connect().await?;
        let mut transaction = connection.snapshot().await?;
        let mut report = look(&mut transaction, on_event).await?;
        chain::examine(&mut transaction, checkpoints, &mut report).await?;
        transaction.rollback().await?;
        connection.close().await?;
        Ok(report)
    }

    /// How many faults the audit log has.
    pub async fn log_faults(&self) -> Result<u64, Error> {
        let mut connection = self.address.connect().await?;
        let mut transaction = connection.snapshot().await?;
        let mut report = AuditReport::empty();
        chain::examine(&mut transaction, &[], &mut report).await?;
        transaction.rollback().await?;
        connection.close().await?;
        Ok(report.drift_count)
    }

    /// The end of the audit log; none when its last row is not the one that its head names.
    pub async fn log_end(&self) -> Result<Option<LogPlace>, Error> {
        let mut connection = self.address.connect().await?;
        let mut transaction = connection.snapshot().await?;
        let end = chain::end(&mut transaction).await?;
        transaction.rollback().await?;
        connection.close().await?;
        Ok(end)
    }
}

async fn look(
    connection: &mut Session,
    mut on_event: impl FnMut(AuditProgress),
) -> Result<AuditReport, Error> {
    let mut report = AuditReport::empty();
    let mut progress = expected(connection).await?;
    on_event(progress);
    let on_row = |_: &str, _: bool| {
        progress.done += 1;
        if progress.done.is_multiple_of(PROGRESS_EVERY) {
            on_event(progress);
        }
    };
    statements(connection, ("", BEYOND_ALL), &mut report, on_row).await?;
    on_event(AuditProgress { stage: Stage::Sequences, ..progress });
    examine(connection, &SEQUENCE, None, &mut report, |_, _, _| Ok(())).await?;
    examine(connection, &JUMP, None, &mut report, |_, _, _| Ok(())).await?;
    examine(connection, &PARTITION, None, &mut report, |report, row, _| {
        report.partitions += 1;
        report.sequences += row.try_get::<i64, _>("sequences")?.unsigned_abs();
        report.amount += row.try_get::<Decimal, _>("amount")?;
        Ok(())
    })
    .await?;
    examine(connection, &HELD, None, &mut report, |_, _, _| Ok(())).await?;
    examine(connection, &USED, None, &mut report, |_, _, _| Ok(())).await?;
    examine(connection, &ARCHIVED, None, &mut report, |_, _, _| Ok(())).await?;
    // Only those at fault were read one by one.
    for line in report.checks.iter_mut().filter(|line| OF_SEQUENCES.contains(&line.check)) {
        line.looked_at = report.sequences;
    }
    Ok(report)
}

async fn expected(connection: &mut Session) -> Result<AuditProgress, Error> {
    // A row of a statement is read twice: for its account, for its sequence.
    let totals: Vec<_> = PaymentState::counted().map(|(_, total)| total).collect();
    let sql = format!(
        "select (select count(*) from customer_accounts)
             + coalesce(sum({} + applied + recorded + rejected), 0)::bigint
         from partition_totals",
        totals.join(" + ")
    );
    let total: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    Ok(AuditProgress { stage: Stage::Accounts, done: 0, total: u64::try_from(total).unwrap_or(0) })
}

/// Recomputes the accounts from the one customer on and before the other. Says of each
/// account and of each row of a statement whose it is, and whether it is at fault.
async fn statements(
    connection: &mut Session,
    range: (&str, &str),
    report: &mut AuditReport,
    mut on_row: impl FnMut(&str, bool),
) -> Result<(), Error> {
    examine(connection, &ACCOUNT, Some(range), report, |report, row, at_fault| {
        report.accounts += u64::from(row.try_get::<bool, _>("opened")?);
        on_row(row.try_get("customer_id")?, at_fault);
        Ok(())
    })
    .await?;
    examine(connection, &ROW, Some(range), report, |report, row, at_fault| {
        report.payments += 1;
        let changed = is_changed(row)?;
        if changed {
            let detail = "its amount, status, date, customer or digest was changed";
            report.add(CONTENT_CHANGED, row.try_get("subject")?, detail.to_owned());
        }
        on_row(row.try_get("customer_id")?, at_fault || changed);
        Ok(())
    })
    .await
}

/// Whether the stored digest is not that of the stored content.
fn is_changed(row: &PgRow) -> Result<bool, Error> {
    let (sent_for, status) = (row.try_get("sent_for")?, row.try_get("payment_status")?);
    let date: DateTime<Utc> = row.try_get("transaction_date")?;
    let digest: &[u8] = row.try_get("payload_digest")?;
    Ok(Digest::of(sent_for, status, row.try_get("amount")?, date).0 != digest)
}

/// Does every check of a relation on each of its rows.
async fn examine(
    connection: &mut Session,
    relation: &Relation,
    range: Option<(&str, &str)>,
    report: &mut AuditReport,
    mut on_row: impl FnMut(&mut AuditReport, &PgRow, bool) -> Result<(), Error>,
) -> Result<(), Error> {
    let Relation { rows, columns, checks } = relation;
    let details = checks.iter().map(|(_, detail)| *detail).collect::<Vec<_>>().join(", ");
    let total =
        |(state, total): (PaymentState, _)| format!("('{}', '{total}', {total})", state.as_str());
    let totals = PaymentState::counted().map(total).collect::<Vec<_>>().join(", ");
    let rows = rows.replace("{TOTALS}", &totals);
    let sql = format!("{ENTRIES} select {details}, subject{columns} from ({rows}) one");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    if let Some((from, before)) = range {
        query = query.bind(from).bind(before);
    }
    let (mut rows, mut number) = (query.fetch(connection), 0);
    while let Some(row) = rows.try_next().await? {
        let mut at_fault = false;
        for (at, (check, _)) in checks.iter().enumerate() {
            if let Some(detail) = row.try_get::<Option<String>, _>(at)? {
                report.add(check, row.try_get("subject")?, detail);
                at_fault = true;
            }
        }
        on_row(report, &row, at_fault)?;
        number += 1;
    }
    let is_ours = |line: &&mut CheckCount| checks.iter().any(|(check, _)| *check == line.check);
    report.checks.iter_mut().filter(is_ours).for_each(|line| line.looked_at = number);
    Ok(())
}

impl AuditReport {
    fn empty() -> Self {
        let checks = RELATIONS.iter().flat_map(|relation| relation.checks).map(|(check, _)| *check);
        let line = |check| CheckCount { check, looked_at: 0, drift: 0 };
        Self {
            accounts: 0,
            payments: 0,
            amount: Decimal::ZERO,
            sequences: 0,
            partitions: 0,
            checks: checks.chain(chain::CHECKS).map(line).collect(),
            drifts: Vec::new(),
            drift_count: 0,
        }
    }

    fn add(&mut self, check: &'static str, subject: &str, detail: String) {
        self.drift_count += 1;
        self.checks.iter_mut().filter(|line| line.check == check).for_each(|line| line.drift += 1);
        if self.drifts.len() < DRIFTS_KEPT {
            self.drifts.push(Drift { check, subject: subject.to_owned(), detail });
        }
    }
}
