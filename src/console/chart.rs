//! Small charts, drawn as paths on the server. Knows no unit and no time zone;
//! what is not known is a gap and never a zero.

use std::time::Duration;

/// Longest reach of a chart.
pub(super) const REACH: Duration = Duration::from_secs(600);
/// Shortest reach of a chart, in seconds, also when less is known.
const REACH_MIN: u64 = 60;
/// Points farther apart than this, in seconds, are not joined.
const GAP: u64 = 31;
/// The drawing's size in its own units.
const WIDTH: u64 = 600;
const HEIGHT: i64 = 100;

/// A line over what is known of the last ten minutes.
pub(super) struct Chart {
    pub(super) line: String,
    pub(super) area: String,
    /// What it shows, for those who do not see it.
    pub(super) label: String,
}

impl Chart {
    /// Points are seconds ago, the oldest first, and a value.
    pub(super) fn new(what: &str, points: &[(u64, Option<i64>)]) -> Self {
        let most = points.iter().filter_map(|(_, value)| *value).max().unwrap_or(0).max(1);
        let reach = reach(points);
        let (mut line, mut area) = (String::new(), String::new());
        let joined = |then: &(u64, Option<i64>), now: &(u64, Option<i64>)| {
            then.1.is_some() && now.1.is_some() && then.0.saturating_sub(now.0) <= GAP
        };
        for run in points.chunk_by(joined) {
            let drawn = run.iter().filter_map(|(ago, value)| {
                let x = reach.saturating_sub(*ago) * WIDTH / reach;
                // The line keeps a little room above and below.
                let y = HEIGHT - 4 - (*value)?.max(0) * (HEIGHT - 8) / most;
                Some((x, format!("{x} {y}")))
            });
            let (across, places): (Vec<u64>, Vec<String>) = drawn.unzip();
            let (Some(first), Some(last)) = (across.first(), across.last()) else { continue };
            let path = places.join("L");
            line += &format!("M{path}");
            area += &format!("M{first} {HEIGHT}L{path}L{last} {HEIGHT}Z");
        }
        let known = points.iter().filter_map(|(_, value)| *value);
        let label = match (known.clone().min(), known.max()) {
            (Some(least), Some(most)) => format!(
                "{what} over the last {}: lowest {}, highest {}",
                super::words::span(reach),
                super::words::number(&least),
                super::words::number(&most)
            ),
            _ => format!("{what}: nothing is known yet"),
        };
        Self { line, area, label }
    }
}

/// How far back, in seconds, a chart of these points reaches.
pub(super) fn reach(points: &[(u64, Option<i64>)]) -> u64 {
    let oldest = points.first().map_or(0, |(ago, _)| *ago);
    oldest.clamp(REACH_MIN, REACH.as_secs())
}

#[cfg(test)]
mod tests {
    use super::Chart;

    #[test]
    fn what_is_not_known_is_a_gap() {
        let points = [(60, Some(0)), (50, Some(10)), (40, None), (0, Some(5))];
        let chart = Chart::new("applied", &points);
        assert_eq!(chart.line, "M0 96L100 4M600 50");
        assert_eq!(chart.area, "M0 100L0 96L100 4L100 100ZM600 100L600 50L600 100Z");
        assert_eq!(chart.label, "applied over the last 1m: lowest 0, highest 10");
    }

    #[test]
    fn without_points_it_says_so() {
        assert!(Chart::new("lag", &[]).label.ends_with("nothing is known yet"));
    }
}
