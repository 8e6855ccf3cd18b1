//! Operators' commands, one file each. Never called by a room.

pub mod archive;
pub mod audit;
pub mod audit_log;
pub mod cases;
pub mod dead_letters;
pub mod doctor;
pub mod export;
pub mod groups;
pub mod keys;
pub mod migrate;
pub mod partitions;
pub mod pending;
pub mod probe;
pub mod seed;
pub mod sessions;
pub mod show;
pub mod topology;

mod partitions_table;
mod stores;
mod watch;
mod table;

use std::{
    io::{BufRead, Write},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};

use crate::{
    clock,
    config::StoreConfig,
    domain::{is_plain, shown},
    operations::{self, Act, Operations},
};

/// Redis and PostgreSQL of a `paystream dev` that runs here, in this order.
pub type Running = Option<(String, String)>;

#[derive(Args, Clone, Debug)]
pub struct ActorArgs {
    /// Who makes the change, for the audit log. Without it, the user that runs
    /// this.
    #[arg(long, env = "PAYSTREAM_ACTOR")]
    pub actor: Option<String>,
}

impl ActorArgs {
    pub(crate) fn name(self) -> anyhow::Result<String> {
        let said = |name: &String| !name.trim().is_empty();
        let variable = |name| std::env::var(name).ok().filter(said);
        let name = self
            .actor
            .filter(said)
            .or_else(|| ["USER", "LOGNAME"].into_iter().find_map(variable))
            .unwrap_or_else(account);
        plain("--actor", &name)?;
        Ok(name)
    }
}

/// The account that this process runs as: its name, or its number where it has
/// none, as in many containers.
fn account() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&*uid)).then(|| name.to_owned())
    });
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("uid {uid}"))
}

/// Refuses a text that does not show what it says.
fn plain(option: &str, text: &str) -> anyhow::Result<()> {
    ensure!(
        is_plain(text),
        "{option} must not have control or invisible characters, nor ones that change the direction \
         of writing"
    );
    Ok(())
}

#[derive(Args, Clone, Debug)]
pub struct SignatureArgs {
    /// Why, for the audit log.
    #[arg(long)]
    pub reason: String,
    #[command(flatten)]
    pub actor: ActorArgs,
}

impl SignatureArgs {
    pub(crate) fn signed(self) -> anyhow::Result<operations::Signature> {
        let Self { reason, actor } = self;
        ensure!(!reason.trim().is_empty(), "--reason is empty: say why, for the audit log");
        plain("--reason", &reason)?;
        Ok(operations::Signature { actor: actor.name()?, reason })
    }
}

/// Why a command failed, and what made it so. What would lead a terminal astray
/// is shown as an escape.
#[must_use]
pub fn failure(error: &anyhow::Error) -> String {
    let lines: Vec<String> = operations::chain(error.as_ref()).lines().map(shown).collect();
    lines.join("\n")
}

/// What a command prints, and how it exits.
type Output = (String, ExitCode);

/// How an act is made and its answer is shown.
#[derive(Args, Clone, Debug)]
pub struct ActArgs {
    #[command(flatten)]
    signature: SignatureArgs,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

impl ActArgs {
    async fn make(self, operations: &Operations, act: Act) -> anyhow::Result<Output> {
        perform(operations, &act, &self.signature.signed()?, self.json).await
    }
}

/// Makes an act. Says what came of it, as text or as a JSON document, and exits with
/// 1 when it was refused or not all of it was done.
async fn perform(
    operations: &Operations,
    act: &Act,
    by: &operations::Signature,
    json: bool,
) -> anyhow::Result<Output> {
    let (document, sentence, complete) = match operations.perform(act, by).await? {
        Ok(answer) => (answer.document, answer.sentence, answer.complete),
        Err(refusal) => (act.refused(&refusal), refusal.sentence().to_owned(), false),
    };
    let text = if json { format!("{document:#}\n") } else { format!("{}\n", shown(&sentence)) };
    Ok((text, ExitCode::from(u8::from(!complete))))
}

fn confirm(question: &str) -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("could not read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A command with commands of its own, on both stores.
#[derive(Args, Clone, Debug)]
pub struct OnStores<A: Subcommand> {
    #[command(subcommand)]
    action: A,
    #[command(flatten)]
    store: StoreConfig,
}

/// Which partition is handed over.
#[derive(Args, Clone, Debug)]
pub struct ReleaseArgs {
    #[command(flatten)]
    store: StoreConfig,
    /// Which partition.
    #[arg(long)]
    partition: u16,
    /// Do not wait for its owner to end its batch: what it has under way is
    /// refused by the ledger and settled by the next owner.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    act: ActArgs,
}

/// What an operator can do, beside running the service.
#[derive(Subcommand)]
pub enum OperatorCommand {
    /// Bring the database to this release's schema and create the streams
    Migrate(migrate::MigrateArgs),
    /// Open accounts GIG00001, GIG00002, …
    Seed(seed::SeedArgs),
    /// Send payments at a fixed rate and see what becomes of each
    Load(Box<paystream_load::LoadArgs>),
    /// Recompute every account, account for every sequence, and verify the audit log
    Audit(audit::AuditArgs),
    /// Look at everything that can be wrong and say what to do; exits 1 when
    /// something is a warning or worse
    Doctor(Box<doctor::DoctorArgs>),
    #[command(flatten)]
    Case(CaseCommand),
    /// Show who owns each partition, what waits in it, and how fast it is
    /// settled; exits 1 when one has no living owner, 2 when PostgreSQL does not
    /// answer
    Partitions(Box<partitions::PartitionsArgs>),
    /// Entries that were taken and are not acknowledged, why, and what is safe to
    /// do; exits 1 when one of them is more than work under way
    Pending(Box<pending::PendingArgs>),
    /// One payment's whole life; exits 1 when nobody knows it
    Show(show::ShowArgs),
    /// Print all that the ledger keeps of a customer, a JSON object a line; exits 1
    /// when it keeps nothing
    Export(export::ExportArgs),
    /// Show the topology, or change its number of partitions
    Topology(topology::TopologyArgs),
    /// Make, list and remove the keys that callers' access tokens are signed with
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Make an access token of a caller
    Token(keys::TokenArgs),
    /// Ask a health endpoint; exits 0 when the answer is 200
    Probe(probe::ProbeArgs),
}

/// What lists cases, groups and partitions, and makes acts.
#[derive(Subcommand)]
pub enum CaseCommand {
    /// Sequences that Redis has lost
    Losses(cases::LossesArgs),
    /// Entries that could not be settled: see, redrive, discard
    DeadLetters(Box<OnStores<dead_letters::DeadLettersAction>>),
    /// Money that arrived for customers we do not know
    Suspense(Box<OnStores<cases::SuspenseAction>>),
    /// Payments under a used reference with other content
    Conflicts(Box<OnStores<cases::ConflictsAction>>),
    /// Payments that wait behind a dead letter of their customer
    Parked(Box<OnStores<cases::ParkedAction>>),
    /// List the changes that were made by hand, and sign how far their log has come
    #[command(subcommand)]
    AuditLog(audit_log::AuditLogCommand),
    /// List the months of payments, and take old ones out of the ledger
    #[command(subcommand)]
    Archive(archive::ArchiveCommand),
    /// Show who is signed in to the console, and end sessions
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Make the owner of a partition hand it over; exits 1 when nobody has
    /// acquired it in time
    Release(Box<ReleaseArgs>),
    /// List, register and retire other consumer groups on the streams
    #[command(subcommand)]
    Groups(groups::GroupsCommand),
}

impl CaseCommand {
    async fn run(self, running: Running) -> anyhow::Result<Output> {
        match self {
            Self::DeadLetters(on) => {
                dead_letters::run(on.action, &stores::operations(on.store, running).await?).await
            }
            Self::Suspense(on) => {
                cases::suspense(on.action, &stores::operations(on.store, running).await?).await
            }
            Self::Conflicts(on) => {
                cases::conflicts(on.action, &stores::operations(on.store, running).await?).await
            }
            Self::Parked(on) => {
                cases::parked(on.action, &stores::operations(on.store, running).await?).await
            }
            Self::Losses(args) => cases::losses(args, running).await,
            Self::Release(args) => {
                let ReleaseArgs { store, partition, force, act } = *args;
                let operations = stores::operations(store, running).await?;
                act.make(&operations, Act::Release { partition, force, wait: true }).await
            }
            Self::AuditLog(command) => command.run(running).await,
            Self::Archive(command) => command.run(running).await,
            Self::Groups(command) => command.run(running).await,
            Self::Sessions(command) => command.run(running).await,
        }
    }
}

impl OperatorCommand {
    /// Runs the command on the configured stores, or on those of `running`.
    pub async fn run(self, running: impl FnOnce() -> Running) -> anyhow::Result<ExitCode> {
        match self {
            Self::Case(command) => {
                let (text, code) = command.run(running()).await?;
                let written = std::io::stdout().write_all(text.as_bytes());
                written.context("could not write the answer")?;
                return Ok(code);
            }
            Self::Migrate(args) => migrate::run(&args.store.or(running())).await?,
            Self::Seed(args) => seed::run(args, running()).await?,
            Self::Load(args) => return paystream_load::run(*args).await,
            Self::Audit(args) => return audit::run(args, running()).await,
            Self::Doctor(args) => return doctor::run(*args, running()).await,
            Self::Partitions(args) => return partitions::run(*args, running()).await,
            Self::Pending(args) => return pending::run(*args, running()).await,
            Self::Show(args) => return show::run(args, running()).await,
            Self::Export(args) => return export::run(args, running()).await,
            Self::Topology(args) => topology::run(args, running()).await?,
            Self::Keys(command) => keys::run(command)?,
            Self::Token(args) => keys::token(&args, clock::system)?,
            Self::Probe(args) => return probe::run(&args).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}
