//! What a storm found: as text, as JSON, and, where something did not hold, as a folder with all
//! that is needed to look into it. Never judges.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use paystream_invariants::{Records, Violation};
use serde::Serialize;
use tokio::time::Instant;

use crate::{fault::Fault, site::Site, watch::Gap};

/// A gap belongs to the fault that began last before it was over, and not longer before it began.
const BEFORE: Duration = Duration::from_millis(1_500);
const SHOWN_MAX: usize = 20;
/// What a timeline has between such a fault and the reason.
const NOT_MADE: &str = " is over: not made: ";

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) held: bool,
    pub(crate) accepted: u64,
    pub(crate) replayed: u64,
    pub(crate) refused: u64,
    pub(crate) effects: usize,
    /// Sequences that are listed as lost, and accepted payments without effect among them.
    pub(crate) listed: i64,
    pub(crate) lost: usize,
    pub(crate) rested_after_ms: Option<u128>,
    pub(crate) faults: BTreeMap<String, Pauses>,
    /// Faults of the plan that could not be made, each with its reason, and how often.
    pub(crate) not_made: BTreeMap<String, usize>,
    pub(crate) violations: Vec<String>,
    pub(crate) troubles: Vec<String>,
    /// Where sequences do not follow on each other, as the ledger has it.
    #[serde(skip)]
    pub(crate) jumps: Vec<String>,
    pub(crate) folder: Option<PathBuf>,
}

/// The longest that a partition stood still in the wake of a kind of fault.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Pauses {
    pub(crate) times: usize,
    pub(crate) settling_ms: u128,
    pub(crate) accepting_ms: u128,
}

/// The pauses by kind of fault.
pub(crate) fn pauses(
    began: Instant,
    faults: &[Fault],
    settling: &[Gap],
    accepting: &[Gap],
) -> BTreeMap<String, Pauses> {
    let mut pauses: BTreeMap<String, Pauses> = BTreeMap::new();
    for fault in faults {
        pauses.entry(fault.kind.name()).or_default().times += 1;
    }
    let mut longest = |gaps: &[Gap], of: fn(&mut Pauses) -> &mut u128| {
        for (since, length) in gaps {
            let is_near = |fault: &&Fault| {
                began + fault.at <= *since + *length && began + fault.at + BEFORE >= *since
            };
            let Some(fault) = faults.iter().rfind(is_near) else { continue };
            let pause = of(pauses.entry(fault.kind.name()).or_default());
            *pause = (*pause).max(length.as_millis());
        }
    };
    longest(settling, |pauses| &mut pauses.settling_ms);
    longest(accepting, |pauses| &mut pauses.accepting_ms);
    pauses
}

/// The faults of a timeline that could not be made.
pub(crate) fn not_made(timeline: &[(Duration, String)]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for (fault, why) in timeline.iter().filter_map(|(_, what)| what.split_once(NOT_MADE)) {
        *reasons.entry(format!("{fault}: {why}")).or_default() += 1;
    }
    reasons
}

/// Accepted payments without effect, all of them listed if nothing is violated.
pub(crate) fn lost(records: &Records) -> usize {
    let effects: std::collections::BTreeSet<&str> =
        records.effects.iter().map(|effect| effect.reference.as_str()).collect();
    let accepted = records.sent.iter().filter(|sent| !sent.answers.is_empty());
    accepted.filter(|sent| !effects.contains(sent.reference.as_str())).count()
}

impl Report {
    /// For a person.
    pub(crate) fn text(&self) -> Result<String> {
        let mut text = String::new();
        let Self { seed, accepted, replayed, refused, effects, listed, lost, .. } = self;
        writeln!(
            text,
            "seed {seed}: {accepted} payments taken, {replayed} of them again, \
            {refused} requests refused or unanswered"
        )?;
        writeln!(
            text,
            "{effects} effects; {lost} payments lost, all listed unless said below \
            ({listed} sequences are listed)"
        )?;
        match self.rested_after_ms {
            Some(rested) => writeln!(text, "at rest {} s after the last fault", rested / 1000)?,
            None => writeln!(text, "it did not come to rest")?,
        }
        writeln!(
            text,
            "\n{:<18} {:>5} {:>16} {:>16}",
            "fault", "times", "settling stood", "accepting stood"
        )?;
        for (fault, Pauses { times, settling_ms, accepting_ms }) in &self.faults {
            writeln!(text, "{fault:<18} {times:>5} {settling_ms:>13} ms {accepting_ms:>13} ms")?;
        }
        for (why, times) in self.not_made.iter().take(SHOWN_MAX) {
            writeln!(text, "\nnot made, {times} times: {why}")?;
        }
        for (name, lines) in [("violated", &self.violations), ("trouble", &self.troubles)] {
            if !lines.is_empty() {
                writeln!(text, "\n{name}, {} times:", lines.len())?;
            }
            for line in lines.iter().take(SHOWN_MAX) {
                writeln!(text, "  {line}")?;
            }
        }
        match &self.folder {
            Some(folder) => writeln!(text, "\nNOT HELD: see {}", folder.display())?,
            None => writeln!(text, "\nEvery invariant held.")?,
        }
        Ok(text)
    }

    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("could not write the report")
    }
}

/// Leaves the timeline, what is violated, and the payments concerned beside the logs.
pub(crate) fn leave(
    site: &Site,
    faults: &[Fault],
    records: &Records,
    violations: &[Violation],
    report: &Report,
) -> Result<()> {
    let mut timeline = String::new();
    for (at, what) in site.timeline() {
        writeln!(timeline, "{:>9} ms  {what}", at.as_millis())?;
    }
    let mut planned = String::new();
    for fault in faults {
        writeln!(
            planned,
            "{:>9} ms  {} {:?} {:?}",
            fault.at.as_millis(),
            fault.kind.name(),
            fault.lasts,
            fault.draws
        )?;
    }
    let mut concerned = String::new();
    for violation in violations {
        writeln!(concerned, "{violation}")?;
        for sent in records.sent.iter().filter(|sent| sent.reference == violation.of) {
            writeln!(concerned, "  {sent:?}")?;
        }
        for effect in records.effects.iter().filter(|effect| effect.reference == violation.of) {
            writeln!(concerned, "  {effect:?}")?;
        }
    }
    writeln!(concerned, "\nlosses:")?;
    for loss in &records.losses {
        writeln!(concerned, "  {loss:?}")?;
    }
    for (name, text) in [
        ("jumps.txt", report.jumps.join("\n")),
        ("timeline.txt", timeline),
        ("plan.txt", planned),
        ("violations.txt", concerned),
        ("report.json", report.json()?),
    ] {
        let path = site.folder.join(name);
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}
