//! How values are written wherever operators read them as data. Never rounds.

use std::time::Duration;

use rust_decimal::Decimal;

use crate::domain::two_places;

/// Money as it is shown: `"10000.00"`.
pub(super) fn money(value: Decimal) -> String {
    two_places(value).to_string()
}

/// A time span in words, to the second: `1m 15s`.
pub(super) fn span(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
