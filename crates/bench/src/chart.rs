//! Draws what a payment costs each process and when it is applied, as an SVG. Never measures.

use std::path::Path;

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

use crate::{
    measure::Measured,
    report::{Middle, PROCESSES, Report, Row},
};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 300;
const COLOURS: [RGBColor; 4] = [
    RGBColor(0x2a, 0x6f, 0x97),
    RGBColor(0x61, 0xa5, 0xc2),
    RGBColor(0xd6, 0x28, 0x28),
    RGBColor(0x58, 0x81, 0x57),
];

/// What the parts of a bar are, the lowest first.
struct Measure {
    title: &'static str,
    parts: &'static [&'static str],
    of: fn(&Row, usize) -> u64,
}

const MEASURES: [Measure; 2] = [
    Measure { title: "CPU µs a payment", parts: &PROCESSES, of: cost },
    Measure { title: "µs until applied", parts: &["half", "99 of 100"], of: latency },
];

fn cost(row: &Row, process: usize) -> u64 {
    let each = row.rounds.iter().filter_map(|one| one.cpu_ns_per_payment.get(PROCESSES[process]));
    Middle::of(each.copied()).map_or(0, |middle| middle.median / 1000)
}

/// Until half are applied, and from then on until 99 of 100 are.
fn latency(row: &Row, part: usize) -> u64 {
    let median = |each: fn(&Measured) -> Option<u64>| {
        Middle::of(row.rounds.iter().filter_map(each)).map_or(0, |middle| middle.median)
    };
    let half = median(|one| one.apply_p50_us);
    if part == 0 { half } else { median(|one| one.apply_p99_us).saturating_sub(half) }
}

impl Measure {
    /// Up to this part, without it.
    fn below(&self, row: &Row, part: usize) -> u64 {
        (0..part).map(|lower| (self.of)(row, lower)).sum()
    }

    fn whole(&self, row: &Row) -> u64 {
        self.below(row, self.parts.len())
    }
}

/// A bar for each row that has such figures, one panel for each curve, or one for all that are no
/// curves.
pub(crate) fn draw(report: &Report, path: &Path) -> Result<()> {
    let mut panels: Vec<(String, &Measure, Vec<&Row>)> = Vec::new();
    for measure in &MEASURES {
        for row in report.rows.iter().filter(|row| measure.whole(row) > 0) {
            let by = row.at.map_or_else(String::new, |_| format!(", by {}", row.name));
            let title = format!("{}{by}", measure.title);
            match panels.iter_mut().find(|(its, ..)| *its == title) {
                Some((_, _, rows)) => rows.push(row),
                None => panels.push((title, measure, vec![row])),
            }
        }
    }
    let count = u32::try_from(panels.len())?;
    let root = SVGBackend::new(path, (WIDTH, HEIGHT * count.max(1))).into_drawing_area();
    root.fill(&WHITE)?;
    for ((title, measure, rows), area) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
        panel(&area, title, measure, rows)?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    measure: &Measure,
    rows: &[&Row],
) -> Result<()> {
    let most = rows.iter().map(|row| measure.whole(row)).max().unwrap_or_default();
    let label = |row: &Row| {
        let name = row.at.map_or_else(|| row.name.to_owned(), |at| at.to_string());
        if row.build == "this" { name } else { format!("{name} ({})", row.build) }
    };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(260)
        .build_cartesian_2d(0..most + most / 3 + 1, (0..rows.len()).into_segmented())?;
    let labels: Vec<String> = rows.iter().rev().map(|row| label(row)).collect();
    let name = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(place) => labels.get(*place).cloned().unwrap_or_default(),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    chart.configure_mesh().disable_y_mesh().y_labels(rows.len()).y_label_formatter(&name).draw()?;
    for (at, part) in measure.parts.iter().enumerate() {
        let bars = rows.iter().rev().enumerate().map(|(place, row)| {
            let from = (measure.below(row, at), SegmentValue::Exact(place));
            let to = (measure.below(row, at + 1), SegmentValue::Exact(place + 1));
            let mut bar = Rectangle::new([from, to], COLOURS[at].filled());
            bar.set_margin(4, 4, 0, 0);
            bar
        });
        let series = chart.draw_series(bars)?.label(*part);
        series.legend(move |(x, y)| {
            Rectangle::new([(x, y - 5), (x + 10, y + 5)], COLOURS[at].filled())
        });
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    Ok(())
}
