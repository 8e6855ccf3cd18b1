//! `paystream parked`: payments that wait behind a dead letter of their
//! customer. Lists them and lets them go on; never drops one.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::{Signature, stores};
use crate::{
    config::StoreConfig,
    domain::{CustomerId, two_places},
    ledger::ParkedCustomer,
};

/// What `paystream parked` is told.
#[derive(Args, Clone, Debug)]
pub struct ParkedArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
}

/// What can be done with parked payments.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Show the customers whose payments wait
    List {
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Settle what waits for a customer, in its order, and park no more
    Release {
        /// Whose payments.
        customer: String,
        /// Who and why.
        #[command(flatten)]
        signature: Signature,
    },
}

/// Lists or releases. Exits with 1 when there was nothing to release.
///
/// # Errors
/// When the ledger cannot be reached, or the customer id is not one.
pub async fn run(args: ParkedArgs) -> anyhow::Result<ExitCode> {
    let (ledger, topology) = stores::open_ledger(&args.store).await?;
    let parking = ledger.parking(&topology);
    let (text, code) = match args.action {
        Action::List { json } => {
            let customers = parking.list().await.context("could not list parked payments")?;
            let text = if json { document(&customers) } else { page(&customers) };
            (text, ExitCode::SUCCESS)
        }
        Action::Release { customer, signature: Signature { reason, actor } } => {
            let id = CustomerId::parse(&*customer)
                .map_err(|invalid| anyhow!("the customer id {customer} {}", invalid.reason))?;
            match parking
                .release(&id, &actor.name()?, &reason)
                .await
                .context("could not release")?
            {
                Some(count) => {
                    (format!("{count} payments of {customer} released\n"), ExitCode::SUCCESS)
                }
                None => (format!("{customer} is not parked\n"), ExitCode::from(1)),
            }
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("could not write")?;
    Ok(code)
}

fn document(customers: &[ParkedCustomer]) -> String {
    let customer = |one: &ParkedCustomer| {
        json!({
            "customer_id": one.customer_id,
            "parked_at": one.parked_at,
            "payments": one.payments,
            "amount": two_places(one.amount).to_string(),
        })
    };
    format!("{:#}\n", json!(customers.iter().map(customer).collect::<Vec<_>>()))
}

fn page(customers: &[ParkedCustomer]) -> String {
    if customers.is_empty() {
        return "No customer is parked.\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["customer", "parked at", "payments", "amount"]);
    for one in customers {
        table.add_row([
            one.customer_id.clone(),
            one.parked_at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            one.payments.to_string(),
            two_places(one.amount).to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}
