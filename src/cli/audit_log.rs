//! `paystream audit-log`: lists operators' changes, and signs checkpoints of their log, which are
//! kept where nobody with rights in the database can change them. Never changes the log.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow, ensure};
use chrono::{DateTime, NaiveDate, NaiveTime};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::{
    Output, Running, SignatureArgs, keys, stores,
    table::{Column, PageArgs, cell, instant, known, listing, number, up_to},
};
use crate::{
    callers::KeySet,
    clock,
    config::{LedgerConfig, StoreConfig},
    ledger::{Checkpoint, Ledger, LogPlace},
    operations::{AuditEntry, AuditFilter, Signature},
};

const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Clone, Debug, Subcommand)]
pub enum AuditLogCommand {
    /// Show the latest changes that were made by hand
    List {
        #[command(flatten)]
        store: StoreConfig,
        #[command(flatten)]
        filter: AuditFilter,
        #[command(flatten)]
        list: PageArgs,
    },
    /// Remove the rows from before a date, as the owner of the tables; exits 1 when it is refused
    Prune {
        #[command(flatten)]
        ledger: LedgerConfig,
        /// From before when: 2025-01-31, in UTC.
        #[arg(long)]
        before: NaiveDate,
        #[command(flatten)]
        signature: SignatureArgs,
    },
    /// Print a signed line that says how far the log has come, to be kept off the database
    Checkpoint {
        #[command(flatten)]
        ledger: LedgerConfig,
        /// File of the private key that signs it: PKCS #8, PEM.
        #[arg(long)]
        key: PathBuf,
    },
}

/// What a checkpoint says, with the time at which it was signed, in seconds since 1970.
#[derive(Deserialize, Serialize)]
struct Signed {
    iat: i64,
    #[serde(flatten)]
    place: LogPlace,
}

impl AuditLogCommand {
    pub(super) async fn run(self, running: Running) -> anyhow::Result<Output> {
        let text = match self {
            Self::List { store, filter, list } => show(store, filter, &list, running).await?,
            Self::Prune { ledger, before, signature } => {
                let by = signature.signed()?;
                return prune(&stores::ledger_or(ledger, running)?, before, &by).await;
            }
            Self::Checkpoint { ledger, key } => {
                let key = keys::private(&key)?;
                let ledger = stores::ledger_or(ledger, running)?;
                ledger.schema().check().await.context("could not read the audit log")?;
                let end = ledger.audit().log_end().await.context("could not read the audit log")?;
                let place = end.context(
                    "the audit log does not end where its head says, so nothing is signed: run \
                     `paystream audit`",
                )?;
                let signed = Signed { iat: clock::system().timestamp(), place };
                let line = key.sign_checkpoint(&signed).context("could not sign the checkpoint")?;
                format!("{line}\n")
            }
        };
        Ok((text, ExitCode::SUCCESS))
    }
}

async fn show(
    store: StoreConfig,
    filter: AuditFilter,
    list: &PageArgs,
    running: Running,
) -> anyhow::Result<String> {
    let operations = stores::operations(store, running).await?;
    let changes = up_to(list.limit, async |before, limit| {
        operations.audit_log(&AuditFilter { before, limit, ..filter.clone() }).await
    });
    let columns: &[Column<'_, AuditEntry>] = &[
        ("id", &|change| number(change.id)),
        ("at", &|change| cell(instant(change.at))),
        ("actor", &|change| cell(&change.actor)),
        ("role", &|change| known(change.role.as_deref())),
        ("action", &|change| cell(&change.action)),
        ("subject", &|change| cell(&change.subject)),
        ("reason", &|change| known(change.reason.as_deref())),
    ];
    Ok(listing(&changes.await?, list.json, "no changes", columns))
}

/// What is pruned is checked before, for the last time.
async fn prune(ledger: &Ledger, before: NaiveDate, by: &Signature) -> anyhow::Result<Output> {
    ledger.schema().check().await.context("could not read the audit log")?;
    let faults = ledger.audit().log_faults().await.context("could not read the audit log")?;
    if faults > 0 {
        let text = "the audit log is not as it was written, so nothing is removed: run \
                    `paystream audit`\n";
        return Ok((text.to_owned(), ExitCode::FAILURE));
    }
    let pruned = ledger.log_keeping().prune(before.and_time(NaiveTime::MIN).and_utc(), by).await;
    Ok(match pruned.context("could not prune the audit log")? {
        Ok((rows, position)) => {
            let text = format!("{rows} rows were removed, up to position {position}\n");
            (text, ExitCode::SUCCESS)
        }
        Err(refusal) => (format!("{}\n", refusal.sentence()), ExitCode::FAILURE),
    })
}

/// Checkpoints that an audit compares the log with.
#[derive(Args, Clone, Debug)]
pub struct CheckpointArgs {
    /// File with lines of `paystream audit-log checkpoint`; the audit log must still have each.
    #[arg(long, requires = "keys_file")]
    checkpoint: Option<PathBuf>,
    /// File with the public keys of whoever signed them.
    #[arg(long, requires = "checkpoint")]
    keys_file: Option<PathBuf>,
}

impl CheckpointArgs {
    /// A file without any is refused: it would prove nothing.
    pub(super) fn read(&self) -> anyhow::Result<Vec<Checkpoint>> {
        let (Some(path), Some(keys)) = (&self.checkpoint, &self.keys_file) else {
            return Ok(Vec::new());
        };
        let keys = KeySet::read(keys).map_err(|error| anyhow!("{}: {error}", keys.display()))?;
        let checkpoints = lines(path, &keys);
        let checkpoints =
            checkpoints.with_context(|| format!("could not read {}", path.display()))?;
        ensure!(!checkpoints.is_empty(), "{} has no checkpoint", path.display());
        Ok(checkpoints)
    }
}

fn lines(path: &Path, keys: &KeySet) -> anyhow::Result<Vec<Checkpoint>> {
    let file = File::open(path)?;
    ensure!(file.metadata()?.len() <= FILE_BYTES_MAX, "it is larger than 64 MiB");
    let mut checkpoints = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file.take(FILE_BYTES_MAX)).lines()) {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let mut name = format!("line {number}");
        let place = keys.checkpoint(line.trim()).map(|Signed { iat, place }| {
            let at = DateTime::from_timestamp(iat, 0).unwrap_or_default();
            name.push_str(&format!(", signed {}", instant(at)));
            place
        });
        checkpoints.push(Checkpoint { name, place });
    }
    Ok(checkpoints)
}
