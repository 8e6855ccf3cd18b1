//! A list of the console: its filters, its rows, and where it goes on. Knows nothing
//! of what is listed; the templates read that as `operations` has it.

use std::{collections::BTreeMap, str::FromStr};

use axum::{
    extract::{self, FromRequestParts},
    http::{Uri, request::Parts},
};
use serde::de::DeserializeOwned;

use super::words;
use crate::{
    http::{Code, Problem, Query},
    operations::Page,
};

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
        // A box that is ticked was `yes` once.
        let asked = asked.map(|(name, value)| match (name.as_str(), value.as_str()) {
            ("all", _) if !value.is_empty() => (name, "true".to_owned()),
            _ => (name, value),
        });
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

    pub(super) fn filter<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let pairs = self.0.iter().filter(|(name, _)| *name != "done");
        let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_str()));
        let uri = format!("/?{}", query(pairs)).parse::<Uri>();
        let bad = |error: String| Problem::new(Code::InvalidQuery, error);
        let uri = uri.map_err(|error| bad(error.to_string()))?;
        let filter = extract::Query::try_from_uri(&uri).map_err(|error| bad(error.body_text()))?;
        Ok(filter.0)
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
    pub(super) next: Option<String>,
}

impl<T> Listing<T> {
    /// A page; the next one is at the cursor of this name.
    pub(super) fn new<C: ToString>(asked: Asked, page: Page<T, C>, name: &str) -> Self {
        let next = page.next.map(|next| next.to_string());
        Self { rows: page.rows, asked, next: None }.followed_by(name, next)
    }

    /// The same with the next page at this cursor.
    pub(super) fn followed_by(mut self, name: &str, cursor: Option<String>) -> Self {
        self.next = cursor.map(|cursor| {
            let filters = self.asked.filters().map(|(name, value)| (name.as_str(), value.as_str()));
            query(filters.chain([(name, cursor.as_str())]))
        });
        self
    }

    pub(super) fn is_filtered(&self) -> bool {
        self.asked.filters().next().is_some()
    }
}

fn query<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pair = |(name, value)| [words::encoded(name), words::encoded(value)].join("=");
    pairs.map(pair).collect::<Vec<_>>().join("&")
}
