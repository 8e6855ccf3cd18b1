//! What a run found: medians and spread as a table, everything as JSON. Never measures.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{ceilings::Ceilings, measure::Measured, scenario::Scenario, site::Build};

/// In the order of a payment's way.
pub(crate) const PROCESSES: [&str; 4] = ["gateway", "worker", "Redis", "PostgreSQL"];

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) builds: Vec<Build>,
    /// One of each round.
    pub(crate) ceilings: Vec<Ceilings>,
    pub(crate) rows: Vec<Row>,
}

/// A scenario under one build, in each round.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Where on its curve.
    pub(crate) at: Option<u32>,
    pub(crate) build: &'static str,
    pub(crate) rounds: Vec<Measured>,
}

impl Report {
    /// One that has measured nothing yet: a row for each scenario and build.
    pub(crate) fn new(builds: &[Build], scenarios: &[Scenario]) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = about.lines().find_map(|line| line.strip_prefix("model name"));
        let processor = model.unwrap_or_default().trim_start_matches(['\t', ' ', ':']).to_owned();
        let pairs = scenarios
            .iter()
            .flat_map(|scenario| builds.iter().map(move |build| (scenario, build.name)));
        let row = |(scenario, build): (&Scenario, &'static str)| Row {
            name: scenario.name,
            at: scenario.at,
            build,
            rounds: Vec::new(),
        };
        let (rows, builds) = (pairs.map(row).collect(), builds.to_vec());
        Self { cores, processor, builds, ceilings: Vec::new(), rows }
    }

    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("could not write the report")
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} cores, {}\n\n", self.cores, self.processor);
        let ceiling = |pick: fn(&Ceilings) -> u64| {
            Middle::of(self.ceilings.iter().map(pick)).map_or_else(String::new, Middle::text)
        };
        let mut table = table(&["this machine at best", "median (spread)"]);
        table.add_row(["an entry written and synced, µs", &ceiling(|one| one.sync_us)]);
        table.add_row(["requests to an empty handler, per s", &ceiling(|one| one.requests)]);
        table.add_row(["single appends to Redis, synced, per s", &ceiling(|one| one.appends)]);
        table.add_row(["rows into a plain table, per s", &ceiling(|one| one.rows)]);
        text.push_str(&format!("{table}\n\n"));
        let mut rows = self::table(&[
            "load",
            "build",
            "applied/s",
            "% of requests",
            "CPU µs each",
            "gateway",
            "worker",
            "Redis",
            "PostgreSQL",
            "accept p50, p99 ms",
            "apply p50, p99 ms",
            "MB",
        ]);
        for row in &self.rows {
            rows.add_row(self.cells(row));
        }
        text.push_str(&format!("{rows}\n"));
        text
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let middle = |pick: &dyn Fn(&Measured) -> Option<u64>| {
            Middle::of(row.rounds.iter().filter_map(pick))
        };
        let spread = |middle: Option<Middle>| middle.map_or_else(String::new, Middle::text);
        let times = |p50: Option<Middle>, p99: Option<Middle>| {
            let both = p50.zip(p99);
            both.map_or_else(String::new, |(p50, p99)| {
                format!("{}, {}", thousandths(p50.median), thousandths(p99.median))
            })
        };
        let at_best = Middle::of(self.ceilings.iter().map(|one| one.requests));
        let applied = middle(&|one| one.applied_per_second);
        let share = applied.zip(at_best).map(|(is, best)| is.median * 100 / best.median.max(1));
        let is_idle = row.rounds.iter().any(|one| !one.thousandths_of_a_core.is_empty());
        let was_not_kept = row.rounds.iter().any(|one| one.rate_was_kept == Some(false));
        let name = match row.at {
            Some(at) => format!("{}: {at}", row.name),
            None if is_idle => format!("{} (CPU in % of a core)", row.name),
            None => row.name.to_owned(),
        };
        let name = if was_not_kept { name + ", not kept" } else { name };
        let mut cells = vec![
            name,
            row.build.to_owned(),
            spread(applied),
            share.map_or_else(String::new, |share| share.to_string()),
            cpu(row, None),
        ];
        cells.extend(PROCESSES.map(|process| cpu(row, Some(process))));
        cells.push(times(middle(&|one| one.accept_p50_us), middle(&|one| one.accept_p99_us)));
        cells.push(times(middle(&|one| one.apply_p50_us), middle(&|one| one.apply_p99_us)));
        let memory = middle(&|one| Some(one.resident_bytes >> 20));
        cells.push(memory.map_or_else(String::new, |memory| memory.median.to_string()));
        cells
    }
}

/// Processor time of one process, or of all: microseconds a payment, or percent of a core.
fn cpu(row: &Row, process: Option<&str>) -> String {
    let sum = |times: &BTreeMap<&str, u64>| -> u64 {
        let is_meant = |name: &str| process.is_none_or(|process| process == name);
        times.iter().filter(|(name, _)| is_meant(name)).map(|(_, time)| time).sum()
    };
    let idle = row.rounds.iter().filter(|one| !one.thousandths_of_a_core.is_empty());
    if let Some(idle) = Middle::of(idle.map(|one| sum(&one.thousandths_of_a_core))) {
        return format!("{}.{} %", idle.median / 10, idle.median % 10);
    }
    let busy = Middle::of(row.rounds.iter().map(|one| sum(&one.cpu_ns_per_payment)));
    let Some(busy) = busy else { return String::new() };
    match process {
        None => busy.rounded(1000).text(),
        Some(_) => busy.rounded(1000).median.to_string(),
    }
}

/// The median of some values, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Middle {
    pub(crate) median: u64,
    least: u64,
    most: u64,
}

impl Middle {
    pub(crate) fn of(values: impl Iterator<Item = u64>) -> Option<Self> {
        let mut values: Vec<u64> = values.collect();
        values.sort_unstable();
        let (below, above) = (values.len().saturating_sub(1) / 2, values.len() / 2);
        let median = (values.get(below)? + values.get(above)?) / 2;
        Some(Self { median, least: *values.first()?, most: *values.last()? })
    }

    fn rounded(self, to: u64) -> Self {
        let round = |value: u64| (value + to / 2) / to;
        Self { median: round(self.median), least: round(self.least), most: round(self.most) }
    }

    fn text(self) -> String {
        let Self { median, least, most } = self;
        if least == most { median.to_string() } else { format!("{median} ({least} to {most})") }
    }
}

/// Of microseconds: milliseconds.
fn thousandths(micros: u64) -> String {
    format!("{}.{}", micros / 1000, micros % 1000 / 100)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Leaves a file in a folder.
pub(crate) fn leave(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(applied: u64, ns: u64) -> Measured {
        Measured {
            applied_per_second: Some(applied),
            cpu_ns_per_payment: [("gateway", ns), ("Redis", 2_000)].into(),
            ..Measured::default()
        }
    }

    #[test]
    fn a_row_has_medians_their_spread_and_the_share_of_the_ceiling() {
        let rounds = vec![measured(300, 9_600), measured(100, 10_400), measured(200, 30_000)];
        let ceilings = vec![Ceilings { sync_us: 80, requests: 800, appends: 1, rows: 1 }];
        let row = Row { name: "x", at: None, build: "this", rounds };
        let report = Report { ceilings, ..Report::new(&[], &[]) };
        let cells = report.cells(&row);
        assert_eq!(cells[..6], ["x", "this", "200 (100 to 300)", "25", "12 (12 to 32)", "10"]);
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Middle::of([].into_iter()), None);
        assert_eq!(Middle::of([5].into_iter()).unwrap().text(), "5");
        assert_eq!(Middle::of([4, 1, 8, 6].into_iter()).unwrap().text(), "5 (1 to 8)");
    }
}
