//! `paystream export`: all that is kept of one customer, for whoever has a right to it. Never
//! changes anything.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use clap::Args;

use super::{Running, stores};
use crate::{config::LedgerConfig, domain::CustomerId};

#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The customer.
    pub customer: String,
    #[command(flatten)]
    pub ledger: LedgerConfig,
}

/// Prints a JSON object a line, with the table and the row. Exits with 1 when nothing is kept.
pub(super) async fn run(args: ExportArgs, running: Running) -> anyhow::Result<ExitCode> {
    let customer = CustomerId::parse(&args.customer)
        .map_err(|invalid| anyhow!("the customer {}", invalid.reason))?;
    let ledger = stores::ledger_or(args.ledger, running)?;
    ledger.schema().check().await.context("could not read the ledger")?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = ledger
        .export(&customer, |table, row| writeln!(out, r#"{{"table":"{table}","row":{row}}}"#));
    let count = written.await.context("could not read the ledger")??;
    out.flush()?;
    eprintln!("{count} rows are kept of {}", customer.as_str());
    Ok(ExitCode::from(u8::from(count == 0)))
}
