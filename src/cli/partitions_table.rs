//! The table of `paystream partitions`, as large as the terminal has room for.
//! Never asks anybody.

use std::cmp::Reverse;

use comfy_table::{CellAlignment, Table, presets};

use super::{table::seconds, watch::Screen};
use crate::{domain::shown, operations::PartitionLook};

/// What is written where PostgreSQL is needed and does not answer.
const UNKNOWN: &str = "unknown";

/// Columns, in their order.
const COLUMNS: [&str; 10] = [
    "partition",
    "owner",
    "epoch",
    "depth",
    "lag",
    "pending",
    "oldest waiting",
    "settled/s",
    "moved",
    "asked for by",
];
/// Columns that a narrow terminal goes without, the first to go first.
const SPARED: [usize; 6] = [9, 8, 2, 3, 7, 6];
/// Rows of the table above its first partition.
const HEADER_ROWS: usize = 2;

/// A partition, and how many payments are settled in it each second.
type RatedPartition<'a> = (&'a PartitionLook, Option<i64>);

/// What is in trouble is the highest; then what waits longest; then what has
/// most to do.
fn urgency((one, rate): &RatedPartition<'_>) -> impl Ord + use<> {
    let work = one.lag.unwrap_or(0) + one.pending.unwrap_or(0);
    let unserved = one.owner_alive == Some(false);
    (unserved, one.draining_to.is_some(), one.oldest_waiting_seconds, work, *rate)
}

fn cells((one, rate): &RatedPartition<'_>) -> [String; COLUMNS.len()] {
    let known = |value: Option<i64>| value.map_or(UNKNOWN.to_owned(), |value| value.to_string());
    let owner = match (&one.owner, &one.owner_told, one.owner_alive) {
        (Some(owner), _, Some(true)) => owner.clone(),
        (Some(owner), ..) => format!("{owner} (silent)"),
        (None, Some(told), _) => format!("{told}?"),
        (None, None, Some(_)) => "NONE".to_owned(),
        (None, None, None) => UNKNOWN.to_owned(),
    };
    let moved = one.moved_seconds.map(|ago| u64::try_from(ago).unwrap_or(0));
    [
        one.partition.to_string(),
        shown(&owner),
        known(one.epoch),
        known(one.depth),
        known(one.lag),
        known(one.pending),
        one.oldest_waiting_seconds.map_or("-".to_owned(), seconds),
        known(*rate),
        moved.map_or(UNKNOWN.to_owned(), |ago| format!("{} ago", seconds(ago))),
        one.draining_to.clone().unwrap_or("-".to_owned()),
    ]
}

/// All partitions and what they come to. Where the screen has no room for all, the
/// most urgent ones come first, and the rest is counted.
pub(super) fn page(
    mut rows: Vec<RatedPartition<'_>>,
    summary: &str,
    screen: Option<Screen>,
) -> String {
    let Some(Screen { rows: height, columns }) = screen else {
        return format!("{}\n\n{summary}", table(&rows, &[]));
    };
    let summary = wrapped(summary, columns);
    // An empty row comes before the summary, and the cursor waits below it.
    let room = height.saturating_sub(HEADER_ROWS + summary.len() + 2);
    let mut more = String::new();
    if rows.len() > room {
        rows.sort_by_key(|row| (Reverse(urgency(row)), row.0.partition));
        let shown = room.saturating_sub(1);
        more = format!("… and {} more", rows.len() - shown);
        rows.truncate(shown);
    }
    let spared = (0..=SPARED.len()).map(|count| &SPARED[..count]);
    let drawn = spared.map(|without| table(&rows, without));
    let fits = |table: &String| table.lines().all(|line| line.chars().count() <= columns);
    let mut narrowest = String::new();
    for table in drawn {
        let fits = fits(&table);
        narrowest = table;
        if fits {
            break;
        }
    }
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let mut page: Vec<String> = narrowest.lines().map(cut).collect();
    if !more.is_empty() {
        page.push(cut(&more));
    }
    page.push(String::new());
    page.extend(summary);
    page.join("\n")
}

/// The table without some of its columns.
fn table(rows: &[RatedPartition<'_>], without: &[usize]) -> String {
    let kept: Vec<usize> = (0..COLUMNS.len()).filter(|at| !without.contains(at)).collect();
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(kept.iter().map(|at| COLUMNS[*at]));
    for row in rows {
        let cells = cells(row);
        table.add_row(kept.iter().map(|at| &cells[*at]));
    }
    for (column, at) in table.column_iter_mut().zip(&kept) {
        if (2..8).contains(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// The text in lines of at most so many characters, broken between words.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{HEADER_ROWS, PartitionLook, Screen, wrapped};

    fn looks() -> Vec<PartitionLook> {
        let look = |partition: u16| PartitionLook {
            partition,
            owner: (partition != 30).then(|| "a-worker-of-a-usual-name-1".to_owned()),
            owner_alive: Some(partition != 30),
            epoch: Some(3),
            depth: Some(12_345),
            lag: Some(i64::from(partition % 4)),
            pending: Some(0),
            oldest_waiting_seconds: (!partition.is_multiple_of(4)).then_some(7),
            moved_seconds: Some(3_661),
            ..PartitionLook::default()
        };
        (0..32).map(look).collect()
    }

    fn page(screen: Screen) -> String {
        let looks = looks();
        super::page(looks.iter().map(|one| (one, Some(4))).collect(), SUMMARY, Some(screen))
    }

    const SUMMARY: &str = "32 partitions, 1 without a living owner; workers with partitions: 1 \
                           (a 31); lag 48, pending 0, 128 settled/s";

    #[test]
    fn the_page_fits_every_screen() {
        for rows in 8..=60 {
            for columns in [20, 40, 60, 80, 100, 132, 200] {
                let page = page(Screen { rows, columns });
                let height = page.lines().count();
                // A screen of eight rows has no room for the words of the summary.
                let least = HEADER_ROWS + 3 + wrapped(SUMMARY, columns).len();
                assert!(height < rows.max(least), "{height} rows of {rows}:\n{page}");
                let widest = page.lines().map(|line| line.chars().count()).max().unwrap();
                assert!(widest <= columns, "{widest} columns of {columns}:\n{page}");
            }
        }
    }

    #[test]
    fn a_full_screen_shows_the_most_urgent_and_counts_the_rest() {
        let shown = page(Screen { rows: 24, columns: 132 });
        let first = shown.lines().nth(HEADER_ROWS).unwrap();
        assert!(first.starts_with("| 30 "), "nobody owns it: {shown}");
        let second = shown.lines().nth(HEADER_ROWS + 1).unwrap();
        assert!(second.starts_with("| 3 "), "it has most to do: {shown}");
        assert_eq!(shown.lines().count(), 23, "{shown}");
        assert!(shown.contains("\n… and 14 more\n\n32 partitions"), "{shown}");
        let all = page(Screen { rows: 60, columns: 132 });
        assert!(all.lines().nth(HEADER_ROWS).unwrap().starts_with("| 0 "), "in order: {all}");
        assert!(!all.contains('…'), "{all}");
    }

    #[test]
    fn a_narrow_screen_goes_without_what_matters_least() {
        let header = |columns| {
            let page = page(Screen { rows: 24, columns });
            page.lines().next().unwrap().to_owned()
        };
        assert!(header(140).contains("asked for by"));
        let narrow = header(80);
        assert!(!narrow.contains("asked for by") && !narrow.contains("moved"), "{narrow}");
        assert!(narrow.contains("owner") && narrow.contains("oldest waiting"), "{narrow}");
    }
}
