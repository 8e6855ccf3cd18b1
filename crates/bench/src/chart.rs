//! Draws what a payment costs each process, as an SVG. Never measures.

use std::path::Path;

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

use crate::report::{Middle, PROCESSES, Report, Row};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 300;
const COLOURS: [RGBColor; 4] = [
    RGBColor(0x2a, 0x6f, 0x97),
    RGBColor(0x61, 0xa5, 0xc2),
    RGBColor(0xd6, 0x28, 0x28),
    RGBColor(0x58, 0x81, 0x57),
];

/// A bar for each row that has a cost, one panel for each curve, or one for all that are no curves.
pub(crate) fn draw(report: &Report, path: &Path) -> Result<()> {
    let mut panels: Vec<(&str, Vec<&Row>)> = Vec::new();
    let costs = report
        .rows
        .iter()
        .filter(|row| row.rounds.iter().any(|round| !round.cpu_ns_per_payment.is_empty()));
    for row in costs {
        let title = if row.at.is_some() { row.name } else { "CPU µs a payment" };
        match panels.iter_mut().find(|(its, _)| *its == title) {
            Some((_, rows)) => rows.push(row),
            None => panels.push((title, vec![row])),
        }
    }
    let count = u32::try_from(panels.len())?;
    let root = SVGBackend::new(path, (WIDTH, HEIGHT * count.max(1))).into_drawing_area();
    root.fill(&WHITE)?;
    for ((title, rows), area) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
        panel(&area, title, rows)?;
    }
    root.present()?;
    Ok(())
}

fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, rows: &[&Row]) -> Result<()> {
    let cost = |row: &Row, process: &str| {
        let each = row.rounds.iter().filter_map(|one| one.cpu_ns_per_payment.get(process));
        Middle::of(each.copied()).map_or(0, |middle| middle.median / 1000)
    };
    let whole = |row: &&Row| PROCESSES.iter().map(|process| cost(row, process)).sum::<u64>();
    let most = rows.iter().map(whole).max().unwrap_or_default();
    let label = |row: &Row| {
        let name = row.at.map_or_else(|| row.name.to_owned(), |at| at.to_string());
        if row.build == "this" { name } else { format!("{name} ({})", row.build) }
    };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(260)
        .build_cartesian_2d(0..most + most / 10 + 1, (0..rows.len()).into_segmented())?;
    let labels: Vec<String> = rows.iter().rev().map(|row| label(row)).collect();
    let name = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(place) => labels.get(*place).cloned().unwrap_or_default(),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    chart.configure_mesh().disable_y_mesh().y_labels(rows.len()).y_label_formatter(&name).draw()?;
    for (at, process) in PROCESSES.iter().enumerate() {
        let bars = rows.iter().rev().enumerate().map(|(place, row)| {
            let before: u64 = PROCESSES.iter().take(at).map(|other| cost(row, other)).sum();
            let from = (before, SegmentValue::Exact(place));
            let to = (before + cost(row, process), SegmentValue::Exact(place + 1));
            let mut bar = Rectangle::new([from, to], COLOURS[at].filled());
            bar.set_margin(4, 4, 0, 0);
            bar
        });
        let series = chart.draw_series(bars)?.label(*process);
        series.legend(move |(x, y)| {
            Rectangle::new([(x, y - 5), (x + 10, y + 5)], COLOURS[at].filled())
        });
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    Ok(())
}
