//! Lists that operators read page by page: how a page is bounded and narrowed, and
//! where the next one begins.

use sqlx::{Postgres, QueryBuilder};

use super::Error;

/// Rows of a page when no number is asked for.
const PAGE: i64 = 50;
/// Rows that a page has at most.
pub const PAGE_MAX: i64 = 500;

/// A page of a list.
#[derive(Debug)]
pub struct Page<T, Cursor> {
    pub rows: Vec<T>,
    /// Where the next page begins; nothing on the last.
    pub next: Option<Cursor>,
}

impl<T, Cursor> Page<T, Cursor> {
    /// More may follow a full page, behind its last row.
    pub(super) fn new(rows: Vec<T>, limit: i64, cursor: impl Fn(&T) -> Cursor) -> Self {
        let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows >= limit);
        Self { next: rows.last().filter(|_| is_full).map(cursor), rows }
    }
}

/// How many rows a page may have.
pub(super) fn page_size(limit: Option<i64>) -> Result<i64, Error> {
    let limit = limit.unwrap_or(PAGE);
    match (1..=PAGE_MAX).contains(&limit) {
        true => Ok(limit),
        false => Err(Error::Place(format!("limit must be from 1 to {PAGE_MAX}"))),
    }
}

/// Keeps the rows whose columns have the texts that are given.
pub(super) fn narrow<const COLUMNS: usize>(
    query: &mut QueryBuilder<Postgres>,
    columns: [(&'static str, &Option<String>); COLUMNS],
) {
    for (column, value) in columns {
        if let Some(value) = value {
            query.push(" and ").push(column).push(" = ").push_bind(value.clone());
        }
    }
}
