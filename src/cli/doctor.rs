//! `paystream doctor`: looks at everything that can be wrong, and says what to do
//! about it. Never changes anything.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;
use console::{Color, style};

use super::{
    Running,
    watch::{Shown, WatchArgs, show},
};
use crate::{
    clock,
    config::ServeConfig,
    domain::shown,
    operations::{self, Checkup, Finding, Severity},
};

/// Where the second line of a finding begins.
const INDENT: &str = "          ";

/// What `paystream doctor` is told.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Settings of the processes, as far as they are set here: they are
    /// checked, too.
    #[command(flatten)]
    pub config: ServeConfig,
    /// Once, or again and again.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Looks at everything. Exits with 1 when something is a warning or worse.
pub(super) async fn run(mut args: DoctorArgs, running: Running) -> anyhow::Result<ExitCode> {
    args.config.store = args.config.store.or(running);
    show(&args.watch, async || {
        let checkup = operations::examine(&args.config, clock::system).await;
        Ok(Shown {
            document: args.watch.document(&checkup)?,
            page: page(&checkup, console::colors_enabled()),
            status: u8::from(checkup.severity >= Severity::Warning),
        })
    })
    .await
}

/// The worst first, and what is as it should be in a few lines at the end.
fn page(checkup: &Checkup, colours: bool) -> String {
    let paint = |colour: Color, text: &'static str| {
        style(text).fg(colour).bold().force_styling(colours).to_string()
    };
    let mut page = String::new();
    let bad = checkup.findings.iter().filter(|finding| finding.severity > Severity::Good);
    for finding in bad {
        let Finding { code, severity, sentence, advice, runbook, .. } = finding;
        let (sentence, advice) = (shown(sentence), shown(advice));
        let (colour, name) = match severity {
            Severity::Critical => (Color::Red, "CRITICAL"),
            Severity::Warning => (Color::Yellow, "WARNING "),
            Severity::Notice | Severity::Good => (Color::Blue, "NOTICE  "),
        };
        page.push_str(&format!(
            "{}  {sentence}\n{INDENT}do:  {advice}\n{INDENT}see: RUNBOOK.md#{runbook} ({code})\n\n",
            paint(colour, name)
        ));
    }
    let good = good(&checkup.findings);
    if !good.is_empty() {
        page.push_str(&format!("{}\n", paint(Color::Green, "OK")));
    }
    let (empty, told): (Vec<_>, Vec<_>) =
        good.into_iter().partition(|(_, sentences)| sentences == &["none"]);
    for (subject, sentences) in told {
        page.push_str(&format!("  {}: {}\n", shown(subject), shown(&sentences.join("; "))));
    }
    if !empty.is_empty() {
        let subjects: Vec<&str> = empty.into_iter().map(|(subject, _)| subject).collect();
        page.push_str(&format!("  nothing lies in: {}\n", shown(&subjects.join(", "))));
    }
    page.push_str(&format!("\n{}\n", summary(checkup)));
    page
}

/// What is as it should be, by what it is about.
fn good(findings: &[Finding]) -> BTreeMap<&str, Vec<&str>> {
    let mut subjects: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Good) {
        subjects.entry(&finding.subject).or_default().push(&finding.sentence);
    }
    subjects
}

fn summary(checkup: &Checkup) -> String {
    let count = |severity| checkup.findings.iter().filter(|one| one.severity == severity).count();
    let counted = |severity, one: &str| match count(severity) {
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    };
    let at = checkup.as_of.format("%Y-%m-%d %H:%M:%S UTC");
    format!(
        "{} critical, {}, {}, {} OK; checked at {at}",
        count(Severity::Critical),
        counted(Severity::Warning, "warning"),
        counted(Severity::Notice, "notice"),
        count(Severity::Good),
    )
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_page_tells_what_to_do_first_and_what_is_well_last() {
        let finding = |severity, subject: &str, sentence: &str| Finding {
            code: "redis_unreachable",
            severity,
            subject: subject.to_owned(),
            sentence: sentence.to_owned(),
            advice: "bring it back".to_owned(),
            runbook: "redis-is-away",
        };
        let findings = vec![
            finding(Severity::Critical, "redis", "Redis is away"),
            finding(Severity::Good, "postgresql", "is reached"),
            finding(Severity::Good, "suspense", "none"),
            finding(Severity::Good, "postgresql", "takes writes"),
            finding(Severity::Good, "conflicts", "none"),
        ];
        let checkup =
            Checkup { severity: Severity::Critical, findings, as_of: DateTime::UNIX_EPOCH };
        let wanted = "CRITICAL  Redis is away\n          do:  bring it back\n          \
             see: RUNBOOK.md#redis-is-away (redis_unreachable)\n\nOK\n  postgresql: is \
             reached; takes writes\n  nothing lies in: conflicts, suspense\n\n1 critical, 0 warnings, 0 notices, 4 OK; checked \
             at 1970-01-01 00:00:00 UTC\n";
        assert_eq!(page(&checkup, false), wanted);
        let painted = page(&checkup, true);
        assert!(painted.starts_with("\x1b[31m\x1b[1mCRITICAL\x1b[0m"), "{painted}");
    }
}
