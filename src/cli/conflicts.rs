//! `paystream conflicts`: payments that came under a used reference with other
//! content. Lists them beside the payment that has the reference, and notes
//! that they were dealt with. Never moves money.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use comfy_table::CellAlignment;
use serde_json::json;

use super::{
    Signature, stores,
    table::{Tone, cell, instant, known, table, toned},
};
use crate::{
    clock,
    config::StoreConfig,
    ledger::PAGE_MAX,
    operations::{Act, Conflict, Operations},
};

/// What `paystream conflicts` is told.
#[derive(Args, Clone, Debug)]
pub struct ConflictsArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ConflictsAction,
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
}

/// What can be done about conflicts.
#[derive(Clone, Debug, Subcommand)]
pub enum ConflictsAction {
    /// Show them, the longest open first
    List {
        /// Show those that were dealt with, too.
        #[arg(long)]
        all: bool,
        /// Those of this reference.
        #[arg(long)]
        reference: Option<String>,
        /// How many to show.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Note that a conflict was dealt with
    Resolve {
        /// Its partition and its sequence there, such as 7/3.
        #[arg(value_name = "PARTITION/SEQUENCE", num_args = 1..=2, required = true)]
        conflict: Vec<String>,
        /// Who and why.
        #[command(flatten)]
        signature: Signature,
        /// Print one JSON document instead of a sentence.
        #[arg(long)]
        json: bool,
    },
}

/// Lists or resolves. Exits with 1 when the change was refused.
pub async fn run(args: ConflictsArgs) -> anyhow::Result<ExitCode> {
    let (streams, ledger, topology) = stores::open(&args.store).await?;
    let operations = Operations::new(&streams, &ledger, &topology, clock::system);
    let (text, code) = match args.action {
        ConflictsAction::List { all, reference, limit, json } => {
            let rows = list(&operations, all, reference.as_deref(), limit).await?;
            let text = match json {
                true => format!("{:#}\n", json!(rows)),
                false => page(&rows, all, reference.is_some()),
            };
            (text, ExitCode::SUCCESS)
        }
        ConflictsAction::Resolve { conflict, signature, json } => {
            // Partition and sequence may be two words.
            let conflict = conflict.join("/");
            let conflict =
                conflict.parse().map_err(|wrong| anyhow!("the conflict {conflict} {wrong}"))?;
            let act = Act::Resolve { conflict };
            super::perform(&operations, &act, &signature.signed()?, json).await?
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("could not write")?;
    Ok(code)
}

async fn list(
    operations: &Operations,
    all: bool,
    reference: Option<&str>,
    limit: usize,
) -> anyhow::Result<Vec<Conflict>> {
    let mut rows: Vec<Conflict> = Vec::new();
    while rows.len() < limit {
        let after = rows.last().map(Conflict::name);
        let page = i64::try_from(limit - rows.len()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let page = operations.conflicts(all, reference, after, page).await;
        let page = page.context("could not list conflicts")?;
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    Ok(rows)
}

fn page(rows: &[Conflict], all: bool, filtered: bool) -> String {
    if rows.is_empty() {
        let none = match (all, filtered) {
            (_, true) => "There are no such conflicts.\n",
            (true, false) => "There are no conflicts.\n",
            (false, false) => "No conflict is open; --all shows all.\n",
        };
        return none.to_owned();
    }
    let mut table = table([
        "partition",
        "sequence",
        "reference",
        "status",
        "customer",
        "amount",
        "first customer",
        "first amount",
        "found at",
        "state",
        "what differs",
    ]);
    for row in rows {
        let tone = if row.state == "open" { Tone::Notice } else { Tone::Quiet };
        table.add_row([
            cell(row.partition).set_alignment(CellAlignment::Right),
            cell(row.sequence).set_alignment(CellAlignment::Right),
            cell(&row.transaction_reference),
            cell(&row.payment_status),
            cell(&row.customer_id),
            cell(&row.transaction_amount).set_alignment(CellAlignment::Right),
            known(row.first_customer_id.as_ref()),
            known(row.first_amount.as_ref()).set_alignment(CellAlignment::Right),
            cell(instant(row.detected_at)),
            toned(&row.state, tone),
            cell(&row.sentence),
        ]);
    }
    format!("{table}\n")
}
