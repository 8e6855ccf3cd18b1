//! `paystream losses`: sequences that were given out and never settled, because
//! Redis lost them or somebody took them out of a stream. Lists them and notes
//! that they were dealt with; never changes a payment.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::json;

use super::Signature;
use crate::{
    clock,
    config::LedgerConfig,
    domain::shown,
    ledger::{Ledger, LossRow, Topology},
    operations::{Act, Operations},
    stream::Streams,
};

/// Where Redis is not.
const UNUSED: &str = "redis://unused";

/// What `paystream losses` is told.
#[derive(Args, Clone, Debug)]
pub struct LossesArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Where the ledger is.
    #[command(flatten)]
    pub ledger: LedgerConfig,
}

/// What can be done about losses.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Show losses that nobody has dealt with; exits with 1 when there are some
    List {
        /// Show those that were dealt with, too.
        #[arg(long)]
        all: bool,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Note that the open losses were dealt with; health and audit are content
    Accept {
        /// Only those of this partition.
        #[arg(long)]
        partition: Option<u16>,
        /// Who and why.
        #[command(flatten)]
        signature: Signature,
    },
}

/// Lists losses, or notes that they were dealt with.
pub async fn run(args: LossesArgs) -> anyhow::Result<ExitCode> {
    let ledger = Ledger::new(args.ledger.database_url()?)
        .context("PAYSTREAM_DATABASE_URL is not a valid URL")?;
    ledger.schema().check().await.context("could not use the ledger")?;
    // Losses are in the ledger, whatever Redis and the topology are.
    let streams = Streams::new(UNUSED, "", 1, 1).context("could not use the ledger")?;
    let operations = Operations::new(&streams, &ledger, &Topology::noted(1, 1), clock::system);
    let (text, code) = match args.action {
        Action::List { all, json } => {
            let rows = operations.losses(all).await.context("could not list losses")?;
            let open = rows.iter().any(|row| row.state == "open");
            let text = if json { document(&rows) } else { page(&rows, all) };
            (text, if open { ExitCode::from(1) } else { ExitCode::SUCCESS })
        }
        Action::Accept { partition, signature } => {
            let act = Act::AcceptLosses { partition };
            super::perform(&operations, &act, &signature.signed()?, false).await?
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("could not write")?;
    Ok(code)
}

fn document(rows: &[LossRow]) -> String {
    let loss = |row: &LossRow| {
        json!({
            "partition": row.partition,
            "reason": row.reason,
            "lost_first": row.lost_first,
            "lost_last": row.lost_last,
            "after_sequence": row.after_sequence,
            "resumes_at": row.resumes_at,
            "detail": row.detail,
            "state": row.state,
            "detected_at": row.detected_at,
        })
    };
    format!("{:#}\n", json!(rows.iter().map(loss).collect::<Vec<_>>()))
}

fn page(rows: &[LossRow], all: bool) -> String {
    if rows.is_empty() {
        let none = match all {
            true => "Nothing is known to be lost.\n",
            false => "No loss is open; --all shows those dealt with.\n",
        };
        return none.to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["partition", "found", "lost sequences", "goes on at", "state", "what"]);
    for row in rows {
        table.add_row([
            row.partition.to_string(),
            row.detected_at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            lost(row),
            row.resumes_at.to_string(),
            row.state.clone(),
            shown(&format!("{}: {}", row.reason, row.detail)),
        ]);
    }
    format!("{table}\n")
}

fn lost(row: &LossRow) -> String {
    match (row.lost_first, row.lost_last) {
        (Some(first), Some(last)) if first == last => first.to_string(),
        (Some(first), Some(last)) => format!("{first} to {last}"),
        // Given out after the ledger was last told, if any was.
        _ => "none known".to_owned(),
    }
}
