//! How the console writes numbers, times and spans, and paths to its pages.
//! What is not known is written as such and never as zero.

use std::fmt::Display;

use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::operations::{Act, CASES_COUNTED_MAX};

/// Characters that stay as they are in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What is written where nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// What is written where there is nothing.
pub(super) const NONE: &str = "–";

/// A whole number with groups of three digits: `1,234,567`.
pub(super) fn number<T: Display + ?Sized>(value: &T) -> String {
    let value = value.to_string();
    let digits = value.trim_start_matches('-');
    let mut text = String::from(if digits.len() < value.len() { "−" } else { "" });
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number, or that it is not known.
pub(super) fn known(value: &Option<impl Display>) -> String {
    value.as_ref().map_or_else(|| UNKNOWN.to_owned(), number)
}

/// A number that is a name, as it is written everywhere; or that it is not known.
pub(super) fn plain(value: &Option<impl Display>) -> String {
    value.as_ref().map_or_else(|| UNKNOWN.to_owned(), ToString::to_string)
}

/// Open cases, which are counted up to a bound: `10,000+`.
pub(super) fn cases(count: i64) -> String {
    let more = if count >= CASES_COUNTED_MAX { "+" } else { "" };
    number(&count) + more
}

/// Money with groups of three digits; the text is of two decimals.
pub(super) fn money<T: Display + ?Sized>(text: &T) -> String {
    let text = text.to_string();
    let (whole, cents) = text.split_once('.').unwrap_or((&text, "00"));
    format!("{}.{cents}", number(whole))
}

/// Something as it is written, or a dash where there is none.
pub(super) fn or_dash<T>(value: &Option<T>, written: impl FnOnce(&T) -> String) -> String {
    value.as_ref().map_or_else(|| NONE.to_owned(), written)
}

/// To the second, in UTC, which the page says once.
pub(super) fn time(at: &DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A stable code for people.
pub(super) fn spaced(code: &str) -> String {
    code.replace('_', " ")
}

/// Seconds in the two largest units: `2h 5m`.
pub(super) fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(at) = units.iter().position(|(size, _)| seconds >= *size) else {
        return "0s".to_owned();
    };
    let (size, unit) = units[at];
    let first = format!("{}{unit}", seconds / size);
    let rest = seconds % size;
    match units.get(at + 1) {
        Some((next, name)) if rest >= *next => format!("{first} {}{name}", rest / next),
        _ => first,
    }
}

/// Milliseconds as a span; below a second as they are.
pub(super) fn idle(milliseconds: &u64) -> String {
    if *milliseconds < 1_000 { format!("{milliseconds}ms") } else { span(milliseconds / 1_000) }
}

/// Something as part of a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

/// The page that a payment's life is on.
pub(super) fn payment_path(reference: &str) -> String {
    format!("/console/payments?reference={}", encoded(reference))
}

/// The page that a customer's account is on.
pub(super) fn customer_path(customer: &str) -> String {
    format!("/console/customers/{}", encoded(customer))
}

/// The page that asks before something is done.
pub(super) fn act_path(act: &Act) -> String {
    format!("/console/act/{}?of={}", act.question().code, encoded(&act.of()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_unknown_is_said() {
        assert_eq!(number(&0), "0");
        assert_eq!(number(&1_234_567), "1,234,567");
        assert_eq!(number(&-12_345), "−12,345");
        assert_eq!(known(&None::<i64>), "unknown");
        assert_eq!((cases(9_999), cases(10_000)), ("9,999".to_owned(), "10,000+".to_owned()));
        assert_eq!(money("1000000.00"), "1,000,000.00");
    }

    #[test]
    fn a_span_has_two_units_at_most() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3_600, "1h"),
            (90_061, "1d 1h"),
            (7_325, "2h 2m"),
        ];
        for (seconds, text) in cases {
            assert_eq!(span(seconds), text);
        }
    }
}
