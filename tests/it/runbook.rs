//! Proves that the RUNBOOK and the doctor agree: every finding has a heading
//! that tells what to do about it, every code is in the table of findings, and
//! the reverse; and every link within the RUNBOOK leads somewhere.

use std::collections::BTreeSet;

use paystream::operations::KINDS;

use crate::observability::read;

/// The anchor of a heading, as those who show Markdown make it.
pub fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Headings with their text.
fn sections(runbook: &str) -> Vec<(&str, &str)> {
    let sections = runbook.split("\n## ").skip(1);
    sections.filter_map(|section| section.split_once('\n')).collect()
}

#[test]
fn every_finding_is_told_under_a_heading_that_says_what_to_do() {
    let runbook = read("RUNBOOK.md");
    let sections = sections(&runbook);
    for kind in KINDS {
        let found = sections.iter().find(|(heading, _)| anchor(heading) == kind.runbook);
        let (heading, text) =
            found.unwrap_or_else(|| panic!("{}: no heading {}", kind.code, kind.runbook));
        let steps = ["*Do*", "1. ", "| do |"];
        assert!(steps.iter().any(|step| text.contains(step)), "{heading} says nothing to do");
        // A change of the topology and a refused start are looked up as such.
        let elsewhere = ["a-start-is-refused", "change-the-number-of-partitions"];
        let told = elsewhere.contains(&kind.runbook) || text.contains(&format!("`{}`", kind.code));
        assert!(told, "{} is not under {heading}", kind.code);
    }
}

#[test]
fn the_table_of_findings_is_what_the_doctor_finds() {
    let runbook = read("RUNBOOK.md");
    let sections = sections(&runbook);
    let (_, table) =
        sections.iter().find(|(heading, _)| *heading == "What the doctor finds").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows.map(str::to_owned).collect();
    let heading = |wanted: &str| {
        let found = sections.iter().find(|(heading, _)| anchor(heading) == wanted);
        found.map_or("?", |(heading, _)| *heading)
    };
    let known: BTreeSet<String> = KINDS
        .iter()
        .map(|kind| {
            let (code, worst, runbook) = (kind.code, kind.worst.as_str(), kind.runbook);
            format!("| `{code}` | {worst} | [{}](#{runbook}) |", heading(runbook))
        })
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_link_within_the_runbook_leads_to_a_heading() {
    let runbook = read("RUNBOOK.md");
    let anchors: BTreeSet<String> =
        sections(&runbook).iter().map(|(heading, _)| anchor(heading)).collect();
    let links = runbook.split("](#").skip(1).filter_map(|rest| rest.split(')').next());
    let links: Vec<&str> = links.collect();
    assert!(links.len() > KINDS.len());
    let lost: Vec<_> = links.into_iter().filter(|link| !anchors.contains(*link)).collect();
    assert!(lost.is_empty(), "these lead nowhere: {lost:?}");
}
