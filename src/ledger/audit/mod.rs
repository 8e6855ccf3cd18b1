//! The self-audit: recomputes every account from its statement, and accounts
//! for every sequence of every partition.
//!
//! One read-only transaction sees one moment, whatever is posted meanwhile.
//! Rows are streamed in order and forgotten, so that memory does not grow with
//! the ledger. Never changes anything, never locks what a worker needs, and
//! never trusts a sum that the ledger keeps: those are what it checks.

mod accounts;
mod findings;
mod rounds;
mod sequences;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use self::{accounts::Recomputed, findings::Findings, sequences::Owed};
pub use findings::{Check, Drift, Line};
pub use rounds::{Rounds, Slice};

use super::Error;

/// Rows between two reports of progress.
const PROGRESS_EVERY: u64 = 10_000;

/// What an audit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Recomputing accounts from their statements.
    Accounts,
    /// Accounting for every sequence.
    Sequences,
}

/// How far an audit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// In which stage it is.
    pub stage: Stage,
    /// Rows read in both stages.
    pub done: u64,
    /// Rows to read in both stages, going by the ledger's own totals.
    pub total: u64,
}

/// What an audit looked at and what it found.
#[derive(Clone, Debug)]
pub struct Report {
    pub accounts: u64,
    /// Rows of statements read.
    pub payments: u64,
    /// The sum of all that was applied, to balances and to credits.
    pub amount: Decimal,
    /// Sequences accounted for.
    pub sequences: u64,
    pub partitions: u64,
    /// Each check: how much it looked at and how much drift it found.
    pub checks: Vec<Line>,
    /// The first 100 drifts.
    pub drifts: Vec<Drift>,
    pub drift_count: u64,
}

/// Audits one ledger.
pub struct Audit {
    options: PgConnectOptions,
}

impl Audit {
    pub(super) fn new(options: &PgConnectOptions) -> Self {
        let options = options.clone().application_name("paystream audit").options([
            ("statement_timeout", "0"),
            // Sorting the whole ledger; more of it in memory is fewer passes.
            ("work_mem", "64MB"),
            ("jit", "off"),
        ]);
        // Slow by nature, and its answer says what matters.
        Self { options: options.disable_statement_logging() }
    }

    /// Looks at everything, and says from time to time how far it is.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached or answers what we do not understand.
    /// Drift is not an error: it is in the report.
    pub async fn run(&self, on_event: impl FnMut(Progress)) -> Result<Report, Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        let begin = "begin isolation level repeatable read, read only";
        let mut transaction = connection.begin_with(begin).await?;
        let report = look(&mut transaction, on_event).await?;
        transaction.rollback().await?;
        connection.close().await?;
        Ok(report)
    }
}

async fn look(
    connection: &mut PgConnection,
    on_event: impl FnMut(Progress),
) -> Result<Report, Error> {
    let mut findings = Findings::default();
    let owed = streams::owed(connection).await?;
    let mut pace = Pace::new(connection, &owed, on_event).await?;
    let everybody = streams::Range::all();
    let recomputed =
        streams::statements(connection, &everybody, &mut findings, || pace.step()).await?;
    pace.enter(Stage::Sequences);
    let partitions = u64::try_from(owed.len()).unwrap_or(u64::MAX);
    let (sequences, amount) = streams::entries(connection, owed, &mut findings, &mut pace).await?;
    streams::held_and_complete(connection, &mut findings).await?;
    let (checks, drifts, drift_count) = findings.conclude();
    let Recomputed { accounts, payments, .. } = recomputed;
    Ok(Report { accounts, payments, amount, sequences, partitions, checks, drifts, drift_count })
}

/// Counts rows, and passes on how far it is.
struct Pace<F> {
    progress: Progress,
    on_event: F,
}

impl<F: FnMut(Progress)> Pace<F> {
    async fn new(
        connection: &mut PgConnection,
        owed: &BTreeMap<i32, Owed>,
        mut on_event: F,
    ) -> Result<Self, Error> {
        let accounts: i64 = sqlx::query_scalar("select count(*) from customer_accounts")
            .fetch_one(connection)
            .await?;
        // A row of a statement is read twice: for its account, for its sequence.
        let rows = owed.values().map(|owed| owed.sums.rows() + owed.sums.posted()).sum::<i64>();
        let total = u64::try_from(accounts.saturating_add(rows)).unwrap_or(0);
        let progress = Progress { stage: Stage::Accounts, done: 0, total };
        on_event(progress);
        Ok(Self { progress, on_event })
    }

    fn enter(&mut self, stage: Stage) {
        self.progress.stage = stage;
        (self.on_event)(self.progress);
    }

    fn step(&mut self) {
        self.progress.done += 1;
        if self.progress.done.is_multiple_of(PROGRESS_EVERY) {
            (self.on_event)(self.progress);
        }
    }
}
