//! Lists that operators read: fetched page after page, shown as a table or as one
//! JSON document. Tables are coloured on a terminal, plain anywhere else and
//! wherever `NO_COLOR` is set. Never decides what is shown.

use std::{fmt::Display, time::Duration};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::json;

use crate::{
    domain::shown,
    operations::{self, PAGE_MAX, Page, span},
};

/// How a list is shown.
#[derive(Args, Clone, Debug)]
pub struct PageArgs {
    /// How many to show.
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
}

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

/// Rows, page after page; `page` is given where the next one begins, and its size.
pub(super) async fn up_to<T, C>(
    limit: usize,
    mut page: impl AsyncFnMut(Option<C>, Option<i64>) -> Result<Page<T, C>, operations::Error>,
) -> anyhow::Result<Vec<T>> {
    let (mut rows, mut from) = (Vec::new(), None);
    while rows.len() < limit {
        let size = i64::try_from(limit - rows.len()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let found = page(from.take(), Some(size)).await.context("could not read the list")?;
        rows.extend(found.rows);
        from = found.next;
        if from.is_none() {
            break;
        }
    }
    Ok(rows)
}

/// A column's heading, and its cell in a row.
pub(super) type Column<'a, T> = (&'a str, &'a dyn Fn(&T) -> Cell);

/// Rows as a JSON document, or as a table; `none` says that there are no rows.
pub(super) fn listing<T: Serialize>(
    rows: &[T],
    json: bool,
    none: &str,
    columns: &[Column<'_, T>],
) -> String {
    match (json, rows.is_empty()) {
        (true, _) => format!("{:#}\n", json!(rows)),
        (false, true) => format!("{none}\n"),
        (false, false) => format!("{}\n", table(rows, columns)),
    }
}

/// A table that fits itself to a terminal.
pub(super) fn table<T>(rows: &[T], columns: &[Column<'_, T>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for row in rows {
        table.add_row(columns.iter().map(|(_, cell)| cell(row)));
    }
    table
}

/// A cell. What would lead a terminal astray is shown as an escape.
pub(super) fn cell(text: impl Display) -> Cell {
    Cell::new(shown(&text.to_string()))
}

/// A cell of a number, an amount or a span, to the right.
pub(super) fn number(value: impl Display) -> Cell {
    cell(value).set_alignment(CellAlignment::Right)
}

/// A cell in the colour of its tone.
pub(super) fn toned(text: impl Display, tone: Tone) -> Cell {
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
pub(super) fn known(text: Option<impl Display>) -> Cell {
    text.map_or_else(|| toned("-", Tone::Quiet), cell)
}

/// An instant, to the second.
pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A time span in whole seconds.
pub(super) fn seconds(seconds: u64) -> String {
    span(Duration::from_secs(seconds))
}
