//! `paystream parked`: payments that wait behind a dead letter of their
//! customer. Lists them and lets them go on; never drops one.

use std::{
    io::{BufRead, IsTerminal, Write},
    process::ExitCode,
};

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
    domain::CustomerId,
    operations::{Act, Foretold, Operations, ParkedCustomer},
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
        /// Release them though a dead letter that they wait for is open: they are
        /// settled before it.
        #[arg(long)]
        force: bool,
        /// Say what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
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
    let operations = Operations::new(&streams, &ledger, &topology, clock::system);
    let (text, code) = match args.action {
        Action::List { json } => {
            let customers = operations.parked().await.context("could not list parked payments")?;
            let text = if json { format!("{:#}\n", json!(customers)) } else { page(&customers) };
            (text, ExitCode::SUCCESS)
        }
        Action::Release { customer, force, dry_run, yes, signature } => {
            let id = CustomerId::parse(&*customer)
                .map_err(|invalid| anyhow!("the customer id {customer} {}", invalid.reason))?;
            let (signature, act) = (signature.signed()?, Act::Unpark { customer: id, force });
            let foretold = operations.foretell(&act).await.context("could not see what waits")?;
            match foretold.and_then(|one| hold(&one, force, dry_run, yes)) {
                Some(held) => held?,
                None => super::perform(&operations, &act, &signature, false).await?,
            }
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("could not write")?;
    Ok(code)
}

/// Says what a release would do, and asks where somebody can be asked. What to
/// answer instead, and how to exit, when it is not to be done.
fn hold(
    foretold: &Foretold,
    force: bool,
    dry_run: bool,
    yes: bool,
) -> Option<anyhow::Result<(String, ExitCode)>> {
    let Foretold { must_force, sentence: would, .. } = foretold;
    if dry_run {
        let forced = if *must_force { "; it would have to be forced" } else { "" };
        return Some(Ok((format!("{would}{forced}. Nothing was changed.\n"), ExitCode::SUCCESS)));
    }
    if (*must_force && !force) || yes || !std::io::stdin().is_terminal() {
        // What must be forced is refused by the ledger, with a sentence.
        return None;
    }
    match confirm(would) {
        Ok(true) => None,
        Ok(false) => Some(Ok(("Nothing was changed.\n".to_owned(), ExitCode::from(1)))),
        Err(error) => Some(Err(error)),
    }
}

fn confirm(would: &str) -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr();
    write!(stderr, "{would}. Release them? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("could not read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
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
