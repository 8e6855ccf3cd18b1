//! How values are written wherever operators read them as data. Never rounds.

use std::{collections::BTreeMap, fmt, time::Duration};

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::domain::two_places;

/// Workers that one sentence names.
const WORKERS_NAMED_MAX: usize = 10;

/// The owners that Redis was told of last, for while PostgreSQL, which knows, does
/// not answer: `last owners known to Redis: a 4, b 4`.
#[must_use]
pub fn last_owners<'a>(owners: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for owner in owners {
        *counts.entry(owner).or_default() += 1;
    }
    let named = counts.iter().take(WORKERS_NAMED_MAX);
    let named: Vec<String> = named.map(|(owner, count)| format!("{owner} {count}")).collect();
    match (named.as_slice(), counts.len().saturating_sub(WORKERS_NAMED_MAX)) {
        ([], _) => "Redis knows of no owner".to_owned(),
        (_, 0) => format!("last owners known to Redis: {}", named.join(", ")),
        (_, more) => format!("last owners known to Redis: {} and {more} more", named.join(", ")),
    }
}

/// Money as it is shown: `"10000.00"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type, ToSchema)]
#[sqlx(transparent)]
#[schema(value_type = String, pattern = r"^-?[0-9]{1,20}\.[0-9]{2}$", example = "10000.00")]
pub struct Money(pub Decimal);

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        two_places(self.0).fmt(f)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A time span in words, to the second, or to the millisecond below one: `1m
/// 15s`, `200ms`.
#[must_use]
pub fn span(duration: Duration) -> String {
    let rounded = match duration.as_secs() {
        0 => Duration::from_millis(u64::from(duration.subsec_millis())),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(rounded).to_string()
}
