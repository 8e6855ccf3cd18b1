//! Measures paystream: `make bench`. Starts everything it measures, on private stores of its own; never
//! touches a server that it did not start.

mod args;
mod ceilings;
mod chart;
mod load;
mod measure;
mod report;
mod scenario;
mod site;

use std::{io::Write as _, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    args::Args,
    ceilings::Ceilings,
    report::{Report, leave},
    scenario::Scenario,
    site::Build,
};

/// How long each ceiling is measured.
const CEILING: Duration = Duration::from_secs(4);
const QUICK_CEILING: Duration = Duration::from_millis(300);

#[tokio::main]
async fn main() -> ExitCode {
    let ran = tokio::select! {
        ran = run(Args::parse()) => ran,
        // What is dropped by it is killed.
        () = paystream_dev::interrupted() => Err(anyhow!("interrupted")),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paystream-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    std::fs::create_dir_all(&args.folder)
        .with_context(|| format!("could not make {}", args.folder.display()))?;
    let folder = args.folder.canonicalize()?;
    let builds = builds(&args)?;
    for build in &builds {
        build.check().await?;
    }
    let scenarios = scenario::all(args.suite, args.quick, &args.only);
    ensure!(!scenarios.is_empty(), "--only leaves nothing: no name of a load has that in it");
    let name = format!("{:?}", args.suite).to_lowercase();
    let report = measure_all(&args, (&folder, &name), builds, &scenarios).await?;
    leave(&folder, &format!("{name}.md"), &report.text())?;
    chart::draw(&report, &folder.join(format!("{name}.svg")))?;
    let text = if args.json { report.json()? + "\n" } else { report.text() };
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").context("could not print the report")?;
    if !args.json {
        writeln!(out, "\nFigures and chart: {}/{name}.json, .md, .svg", folder.display())?;
    }
    Ok(())
}

/// What is measured: the build meant, and perhaps another one beside it.
fn builds(args: &Args) -> Result<Vec<Build>> {
    let own = std::env::current_exe()?.with_file_name("paystream");
    let binary = args.binary.clone().unwrap_or(own);
    let mut builds = Vec::new();
    if args.against.is_some() || !args.setting.is_empty() {
        let binary = args.against.clone().unwrap_or_else(|| binary.clone());
        builds.push(Build { name: "other", binary, settings: args.setting.clone() });
    }
    builds.insert(0, Build { name: "this", binary, settings: Vec::new() });
    for Build { binary, .. } in &mut builds {
        *binary = binary.canonicalize().with_context(|| {
            format!("{} is not there: build it, or say --binary", binary.display())
        })?;
    }
    Ok(builds)
}

/// In every round each scenario comes up once under each build, in turn, so that what else the
/// machine does hits all alike. Figures are left after each round.
async fn measure_all(
    args: &Args,
    (folder, name): (&Path, &str),
    builds: Vec<Build>,
    scenarios: &[Scenario],
) -> Result<Report> {
    let rounds = usize::try_from(args.rounds)?;
    let bar = ProgressBar::new(u64::try_from(rounds * (1 + scenarios.len() * builds.len()))?);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos} of {len}, {elapsed}: {msg}")?);
    if args.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let servers = folder.join("servers");
    paystream_dev::remove(&servers).await?;
    std::fs::create_dir_all(&servers)?;
    let mut report = Report::new(&builds, scenarios);
    let length = if args.quick { QUICK_CEILING } else { CEILING };
    for round in 0..rounds {
        bar.set_message("what the machine can do");
        let binary = &builds.first().context("there is nothing to measure")?.binary;
        report.ceilings.push(Ceilings::measure(binary, &servers, length).await?);
        bar.inc(1);
        for (place, scenario) in scenarios.iter().enumerate() {
            for turn in 0..builds.len() {
                // Who comes first has no advantage.
                let one = (turn + round) % builds.len();
                let build = &builds[one];
                bar.set_message(format!("{} ({})", scenario.name, build.name));
                let measured = measure::measure(build, &servers, scenario).await?;
                report.rows[place * builds.len() + one].rounds.push(measured);
                bar.inc(1);
            }
        }
        leave(folder, &format!("{name}.json"), &report.json()?)?;
    }
    bar.finish_and_clear();
    Ok(report)
}
