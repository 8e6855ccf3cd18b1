//! `paystream archive`: lists the months of payments, and takes old ones out of the ledger. Runs as
//! the owner of the tables, as `paystream migrate` does.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use super::{
    Output, Running, SignatureArgs, stores,
    table::{Column, cell, instant, known, listing, number},
};
use crate::{
    config::LedgerConfig,
    ledger::{Archive, MonthRow},
};

#[derive(Clone, Debug, Subcommand)]
pub enum ArchiveCommand {
    /// Show the months of payments, and which have left the ledger
    List {
        #[command(flatten)]
        ledger: LedgerConfig,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Take the oldest month out of the ledger, while payments go on; exits 1 when it is refused.
    /// Interrupted, run it again
    Detach {
        #[command(flatten)]
        ledger: LedgerConfig,
        /// The month's table, as the list names it.
        month: String,
        #[command(flatten)]
        signature: SignatureArgs,
    },
}

impl ArchiveCommand {
    pub(super) async fn run(self, running: Running) -> anyhow::Result<Output> {
        match self {
            Self::List { ledger, json } => {
                let months = archive(ledger, running).await?.months().await;
                let months = months.context("could not read the months")?;
                Ok((list(&months, json), ExitCode::SUCCESS))
            }
            Self::Detach { ledger, month, signature } => {
                let by = signature.signed()?;
                let detached = archive(ledger, running).await?.detach(&month, &by).await;
                Ok(match detached.context("could not detach the month")? {
                    Ok(payments) => {
                        let text = format!(
                            "{month} has left the ledger with {payments} payments; its table is \
                             there: dump it (`pg_dump --table={month}`), then drop it\n"
                        );
                        (text, ExitCode::SUCCESS)
                    }
                    Err(refusal) => (format!("{}\n", refusal.sentence()), ExitCode::FAILURE),
                })
            }
        }
    }
}

async fn archive(ledger: LedgerConfig, running: Running) -> anyhow::Result<Archive> {
    let ledger = stores::ledger_or(ledger, running)?;
    ledger.schema().check().await.context("could not read the ledger")?;
    Ok(ledger.archive())
}

fn list(months: &[MonthRow], json: bool) -> String {
    let state = |month: &MonthRow| match (month.detached_at, month.is_attached) {
        (None, _) if month.is_old => "old",
        (None, _) => "in use",
        (Some(_), true) => "being detached",
        (Some(_), false) => "detached",
    };
    let columns: &[Column<'_, MonthRow>] = &[
        ("month", &|month| cell(&month.name)),
        ("from", &|month| known(month.starts_at.map(instant))),
        ("before", &|month| cell(instant(month.ends_at))),
        ("payments, about", &|month| number(month.payments)),
        ("MiB", &|month| number(month.bytes / (1024 * 1024))),
        ("state", &|month| cell(state(month))),
    ];
    listing(months, json, "no months", columns)
}
