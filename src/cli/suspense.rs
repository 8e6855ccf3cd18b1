//! `paystream suspense`: money that arrived for customers we do not know. Lists
//! it, gives it to the customer that was meant, or marks it for refund. Never
//! sends money anywhere.

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
    domain::{CustomerId, Reference},
    ledger::PAGE_MAX,
    operations::{Act, Operations, SuspensePayment},
};

/// What `paystream suspense` is told.
#[derive(Args, Clone, Debug)]
pub struct SuspenseArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: SuspenseAction,
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
}

/// What can be done with payments in suspense.
#[derive(Clone, Debug, Subcommand)]
pub enum SuspenseAction {
    /// Show those that are held or marked for refund, the longest held first
    List {
        /// Show those that were applied or found in conflict, too.
        #[arg(long)]
        all: bool,
        /// Those that were sent for this customer.
        #[arg(long)]
        customer: Option<String>,
        /// How many to show.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Apply a held payment to the account of the customer that was meant
    Assign {
        /// Its reference.
        reference: String,
        /// Whose it is.
        #[arg(long)]
        customer: String,
        /// Who and why.
        #[command(flatten)]
        signature: Signature,
        /// Print one JSON document instead of a sentence.
        #[arg(long)]
        json: bool,
    },
    /// Note that a held payment is to be sent back; it is not applied any more
    RefundMark {
        /// Its reference.
        reference: String,
        /// Who and why.
        #[command(flatten)]
        signature: Signature,
        /// Print one JSON document instead of a sentence.
        #[arg(long)]
        json: bool,
    },
}

/// Lists, assigns or marks. Exits with 1 when a change was refused.
///
/// # Errors
/// When the ledger cannot be reached, or a name is not one.
pub async fn run(args: SuspenseArgs) -> anyhow::Result<ExitCode> {
    let (streams, ledger, topology) = stores::open(&args.store).await?;
    let operations = Operations::new(&streams, &ledger, &topology, clock::system);
    let (text, code) = match args.action {
        SuspenseAction::List { all, customer, limit, json } => {
            let rows = list(&operations, all, customer.as_deref(), limit).await?;
            let text = if json { format!("{:#}\n", json!(rows)) } else { page(&rows) };
            (text, ExitCode::SUCCESS)
        }
        SuspenseAction::Assign { reference, customer, signature, json } => {
            let id = CustomerId::parse(&*customer)
                .map_err(|invalid| anyhow!("the customer id {customer} {}", invalid.reason))?;
            let act = Act::Assign { reference: parsed(&reference)?, customer: Some(id) };
            super::perform(&operations, &act, &signature.signed()?, json).await?
        }
        SuspenseAction::RefundMark { reference, signature, json } => {
            let act = Act::MarkForRefund { reference: parsed(&reference)? };
            super::perform(&operations, &act, &signature.signed()?, json).await?
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("could not write")?;
    Ok(code)
}

fn parsed(reference: &str) -> anyhow::Result<Reference> {
    Reference::parse(reference)
        .map_err(|invalid| anyhow!("the reference {reference} {}", invalid.reason))
}

async fn list(
    operations: &Operations,
    all: bool,
    customer: Option<&str>,
    limit: usize,
) -> anyhow::Result<Vec<SuspensePayment>> {
    let mut rows: Vec<SuspensePayment> = Vec::new();
    while rows.len() < limit {
        let after = rows.last().map(|row| row.transaction_reference.clone());
        let page = i64::try_from(limit - rows.len()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let page = operations.suspense(all, customer, after.as_deref(), page).await;
        let page = page.context("could not list payments in suspense")?;
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    Ok(rows)
}

fn page(rows: &[SuspensePayment]) -> String {
    if rows.is_empty() {
        return "No payment is in suspense.\n".to_owned();
    }
    let mut table =
        table(["reference", "sent for", "amount", "held since", "state", "assigned to", "why"]);
    for row in rows {
        let tone = match row.state.as_str() {
            "held" => Tone::Notice,
            "applied" => Tone::Good,
            "conflict" => Tone::Bad,
            _ => Tone::Quiet,
        };
        table.add_row([
            cell(&row.transaction_reference),
            cell(&row.customer_id),
            cell(&row.transaction_amount).set_alignment(CellAlignment::Right),
            cell(instant(row.held_at)),
            toned(&row.state, tone),
            known(row.assigned_to.as_ref()),
            cell(&row.sentence),
        ]);
    }
    format!("{table}\n")
}
