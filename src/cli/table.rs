//! Tables that operators read: coloured on a terminal, plain anywhere else and
//! wherever `NO_COLOR` is set. Never decides what is shown.

use chrono::{DateTime, Utc};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use crate::domain::shown;

/// How something is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Notice,
    /// Hurts.
    Bad,
    /// Dealt with, or of little interest.
    Quiet,
}

/// An empty table with these columns. Fits itself to a terminal.
pub(super) fn table<const COLUMNS: usize>(columns: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns);
    table
}

/// A cell. What would lead a terminal astray is shown as an escape.
pub(super) fn cell(text: impl ToString) -> Cell {
    Cell::new(shown(&text.to_string()))
}

/// A cell in the colour of its tone.
pub(super) fn toned(text: impl ToString, tone: Tone) -> Cell {
    let cell = cell(text);
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return cell;
    }
    // Tables leave colours out by themselves where there is no terminal.
    cell.fg(match tone {
        Tone::Good => Color::Green,
        Tone::Notice => Color::Yellow,
        Tone::Bad => Color::Red,
        Tone::Quiet => Color::DarkGrey,
    })
}

/// A cell of something that may not be known.
pub(super) fn known(text: Option<impl ToString>) -> Cell {
    text.map_or_else(|| toned("-", Tone::Quiet), cell)
}

/// An instant, to the second.
pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
