//! The `paystream` binary: every role and every operator's command.

use std::{
    io::{self, ErrorKind},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use paystream::{
    app::{self, DevArgs, Role},
    cli,
    config::{ServeConfig, TelemetryConfig},
    telemetry,
};

/// Requests and batches allocate much and briefly; the system's allocator stood
/// out in the profile.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes customers' payments over HTTP, keeps them in Redis Streams, and posts
/// each exactly once and in order to a PostgreSQL ledger.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    telemetry: TelemetryConfig,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on this machine, with a private Redis and PostgreSQL
    Dev(Box<DevArgs>),
    /// Serve until SIGTERM
    Serve {
        /// What this process does
        #[arg(value_enum, default_value = "all")]
        role: Role,
        #[command(flatten)]
        config: Box<ServeConfig>,
    },
    /// Operators' commands
    #[command(flatten)]
    Operate(Box<cli::OperatorCommand>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let threads = match &cli.command {
        Command::Dev(args) => args.config.threads,
        Command::Serve { config, .. } => config.threads,
        Command::Operate(_) => None,
    };
    match app::runtime(threads).and_then(|runtime| runtime.block_on(run(cli))) {
        Ok(code) => code,
        // Whoever read the answer has heard enough: as after SIGPIPE.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(141),
        Err(error) => {
            eprintln!("paystream: {}", cli::failure(&error));
            ExitCode::from(2)
        }
    }
}

/// Whether the answer could not be written because nobody reads it any more. A store
/// whose connection broke is another error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let level = telemetry::log(&cli.telemetry)?;
    // Commands find the servers of a `paystream dev` that runs here.
    let running = || {
        let addresses = paystream_dev::running_addresses(".paystream".as_ref())?;
        Some((addresses.redis_url, addresses.database_url))
    };
    match cli.command {
        Command::Dev(args) => app::dev(*args, level).await?,
        Command::Serve { role, mut config } => {
            config.store = config.store.or(running());
            app::serve(role, *config, level).await?;
        }
        Command::Operate(command) => return command.run(running).await,
    }
    Ok(ExitCode::SUCCESS)
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}
