//! `paystream parked`: payments that wait behind a dead letter of their
//! customer. Lists them and lets them go on; never drops one.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use comfy_table::CellAlignment;
use serde_json::json;

use super::{
    Signature, stores,
    table::{instant, table},
};
use crate::{
    clock,
    config::StoreConfig,
    control::{Control, ParkedCustomer},
    domain::CustomerId,
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
    let (streams, ledger, topology) = stores::open(&args.store).await?;
    let control = Control::new(&streams, &ledger, &topology, clock::system);
    let (text, code) = match args.action {
        Action::List { json } => {
            let customers = control.parked().await.context("could not list parked payments")?;
            let text = if json { format!("{:#}\n", json!(customers)) } else { page(&customers) };
            (text, ExitCode::SUCCESS)
        }
        Action::Release { customer, signature } => {
            let id = CustomerId::parse(&*customer)
                .map_err(|invalid| anyhow!("the customer id {customer} {}", invalid.reason))?;
            let released = control.release_parked(&id, &signature.signed()?).await;
            super::answer(released.context("could not release")?, false, |count| {
                (json!(count), format!("{count} payments of {customer} released"))
            })
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("could not write")?;
    Ok(code)
}

fn page(customers: &[ParkedCustomer]) -> String {
    if customers.is_empty() {
        return "No customer is parked.\n".to_owned();
    }
    let mut table = table(["customer", "parked at", "payments", "amount"]);
    for one in customers {
        table.add_row([
            one.customer_id.clone(),
            instant(one.parked_at),
            one.payments.to_string(),
            one.amount.clone(),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}
