//! A list of the console: its filters, its rows, and where it goes on. Knows nothing
//! of what is listed; the templates read that as `operations` has it.

use std::{collections::BTreeMap, str::FromStr};

use axum::{extract::FromRequestParts, http::request::Parts};

use super::words;
use crate::http::{Code, Problem, Query};

/// Rows of a page.
pub(super) const PAGE: i64 = 50;
/// Fields of a query that are no filters.
const BESIDE: [&str; 5] = ["done", "after", "before", "from", "offset"];

/// Filters and cursor, as the query has them. Empty ones are not set.
pub(super) struct Asked(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await?;
        let asked = asked.into_iter().map(|(name, value)| (name, value.trim().to_owned()));
        Ok(Self(asked.filter(|(_, value)| !value.is_empty()).collect()))
    }
}

impl Asked {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        let bad = |_| Problem::new(Code::InvalidQuery, format!("{name} is not valid"));
        self.text(name).map(|text| text.parse().map_err(bad)).transpose()
    }

    fn filters(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter().filter(|(name, _)| !BESIDE.contains(&name.as_str()))
    }
}

/// A page of a list.
pub(super) struct Listing<T> {
    pub(super) rows: Vec<T>,
    pub(super) asked: Asked,
    /// The query of the next page.
    pub(super) next: Option<String>,
}

impl<T> Listing<T> {
    /// These rows; more may follow a full page, behind the last row's `cursor`.
    pub(super) fn new<C: ToString>(
        asked: Asked,
        rows: Vec<T>,
        name: &str,
        cursor: impl Fn(&T) -> C,
    ) -> Self {
        let full = i64::try_from(rows.len()).is_ok_and(|rows| rows >= PAGE);
        let last = rows.last().filter(|_| full).map(|last| cursor(last).to_string());
        Self { rows, asked, next: None }.followed_by(name, last)
    }

    /// The same with the next page at this cursor.
    pub(super) fn followed_by(mut self, name: &str, cursor: Option<String>) -> Self {
        self.next = cursor.map(|cursor| {
            let filters = self.asked.filters().map(|(name, value)| (name.as_str(), value.as_str()));
            let pairs = filters.chain([(name, cursor.as_str())]);
            let pair = |(name, value)| [words::encoded(name), words::encoded(value)].join("=");
            pairs.map(pair).collect::<Vec<_>>().join("&")
        });
        self
    }

    pub(super) fn is_filtered(&self) -> bool {
        self.asked.filters().next().is_some()
    }
}
