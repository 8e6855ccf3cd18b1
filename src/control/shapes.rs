//! How values are written wherever operators read them as data. Never rounds.

use std::time::Duration;

use rust_decimal::Decimal;
use utoipa::ToSchema;

use crate::domain::two_places;

/// Money as it is shown: `"10000.00"`.
#[derive(ToSchema)]
#[schema(pattern = r"^-?[0-9]{1,20}\.[0-9]{2}$", example = "10000.00")]
#[expect(dead_code, reason = "describes what `money` writes")]
pub struct Money(String);

/// Money as it is shown.
pub(super) fn money(value: Decimal) -> String {
    two_places(value).to_string()
}

/// A time span in words, to the second, or to the millisecond below one: `1m
/// 15s`, `200ms`.
pub(super) fn span(duration: Duration) -> String {
    let rounded = match duration.as_secs() {
        0 => Duration::from_millis(u64::from(duration.subsec_millis())),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(rounded).to_string()
}
