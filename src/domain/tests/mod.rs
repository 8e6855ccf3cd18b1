//! Tests of the values: money, names, dates, digests, partitions. One line a
//! case. The book has its own model in `book`. Never needs a server.

mod book;
mod model;

use chrono::{DateTime, Utc};
use chrono_tz::{Africa::Lagos, Europe::Berlin, Tz};
use rust_decimal::Decimal;

use super::{
    AMOUNT_MAX, Amount, CustomerId, LEDGER_MAX, Payment, PaymentStatus, Reference, Source,
    StreamId, parse_date, partition_of, two_places,
};

#[test]
fn amounts_are_plain_decimals_with_two_places() {
    for (text, expected) in [
        ("10000", "10000.00"),
        ("10000.5", "10000.50"),
        ("10000.50", "10000.50"),
        ("0.01", "0.01"),
        ("0.1", "0.10"),
        ("10000000000", "10000000000.00"),
        ("10000000000.0", "10000000000.00"),
        ("10000000000.00", "10000000000.00"),
        ("9999999999.99", "9999999999.99"),
        ("007", "7.00"),
        ("0000000000000000000000000000007.5", "7.50"),
    ] {
        let amount = Amount::parse(text).unwrap();
        assert_eq!(amount.to_string(), expected, "{text:?}");
        assert_eq!(Amount::checked(expected.parse().unwrap()), Ok(amount), "{text:?}");
    }
}

#[test]
fn other_amounts_are_refused_with_their_reason() {
    let long = ["9".repeat(40), "1".repeat(1_000_000)];
    let refused: &[(&str, &[&str])] = &[
        ("empty", &[""]),
        ("exponent", &["1e3", "1E3", "1.5e+3", "1e-3", "-1e3"]),
        (
            "not_a_decimal",
            &[
                "10000abc",
                "NaN",
                "inf",
                "0x10",
                "--5",
                ".5",
                "5.",
                ".",
                "1.2.3",
                " 5",
                "5 ",
                "5\n",
                "5\0",
                "+5",
                "1,000",
                "1_000",
                "\u{0661}\u{0660}",
                "\u{ff15}",
                "5\u{00a0}",
            ],
        ),
        ("negative", &["-5", "-0", "-0.01"]),
        ("not_positive", &["0", "0.0", "0.00"]),
        ("too_many_decimals", &["1.005", "1.000", "0.001"]),
        (
            "too_large",
            &["10000000000.01", "10000000001", "99999999999", "100000000000", &long[0], &long[1]],
        ),
    ];
    for (code, texts) in refused {
        for text in *texts {
            let refused = Amount::parse(text).map_err(|invalid| invalid.code);
            assert_eq!(refused, Err(*code), "{text:?}");
        }
    }
}

/// Whoever sends the amount chooses its length; reading it must not need more
/// stack for more of it.
#[test]
fn long_nonsense_is_refused_like_short_nonsense() {
    for pattern in ["-", "1e", "-1e", "."] {
        let text = pattern.repeat(2_000_000);
        assert_eq!(Amount::parse(&text).map_err(|invalid| invalid.code), Err("not_a_decimal"));
    }
}

#[test]
fn amounts_of_the_ledger_are_checked_as_well() {
    for (text, expected) in [
        ("5", Ok("5.00")),
        ("5.1000", Ok("5.10")),
        ("5.001", Err("too_many_decimals")),
        ("0", Err("not_positive")),
        ("-1", Err("negative")),
        ("10000000000.00", Ok("10000000000.00")),
        ("10000000000.01", Err("too_large")),
    ] {
        let amount = Amount::checked(text.parse().unwrap());
        let shown = amount.map(|amount| amount.to_string()).map_err(|invalid| invalid.code);
        assert_eq!(shown, expected.map(str::to_owned), "{text}");
    }
}

#[test]
fn limits_are_what_they_say() {
    assert_eq!(AMOUNT_MAX, "10000000000.00".parse().unwrap());
    assert_eq!(AMOUNT_MAX.to_string(), "10000000000.00");
    assert_eq!(LEDGER_MAX, "9999999999999999.99".parse().unwrap());
    assert_eq!(LEDGER_MAX.to_string(), "9999999999999999.99");
    assert_eq!(two_places(Decimal::from(7)).to_string(), "7.00");
}

#[test]
fn references_are_visible_ascii() {
    let all: String = (b'!'..=b'~').map(char::from).collect();
    for text in ["VPAY25110713542114478761522000", "!", "a{b}/c:d%20", &all, &"r".repeat(128)] {
        let reference = Reference::of(&Source::default(), text).unwrap();
        assert_eq!(
            (reference.as_str(), reference.source(), reference.given()),
            (text, "default", text)
        );
        assert_eq!(Reference::parse(text), Ok(reference));
    }
    let bad =
        ["a b", " a", "a\t", "a\u{7f}", "a\0", "caf\u{e9}"].map(|text| (text, "bad_character"));
    let long = "r".repeat(129);
    for (text, code) in bad.into_iter().chain([("", "empty"), (&long, "too_long")]) {
        let refused = Reference::of(&Source::default(), text).map_err(|invalid| invalid.code);
        assert_eq!(refused, Err(code), "{text:?}");
    }
}

#[test]
fn a_payment_is_named_with_its_source() {
    let bank = Source::parse("bank-a").unwrap();
    let theirs = Reference::of(&bank, "TX-1").unwrap();
    assert_eq!(
        (theirs.as_str(), theirs.source(), theirs.given()),
        ("bank-a TX-1", "bank-a", "TX-1")
    );
    assert_eq!(Reference::parse("bank-a TX-1"), Ok(theirs.clone()));
    assert_ne!(Reference::parse("TX-1"), Ok(theirs));
    // One payment has one name.
    assert_eq!(Reference::parse("default TX-1"), Reference::parse("TX-1"));
    let bad = ["A TX-1", "bank_a TX-1", " TX-1", "bank-a ", "a b c", "bank-a  TX-1"];
    for text in bad {
        assert!(Reference::parse(text).is_err(), "{text:?}");
    }
    // What a sender writes cannot name another's payment.
    assert!(Reference::of(&bank, "bank-b TX-1").is_err());
    assert!(Reference::of(&Source::default(), "bank-a TX-1").is_err());
    let long = "s".repeat(33);
    for (text, code) in
        [("", "empty"), ("Bank", "bad_character"), ("a b", "bad_character"), (&long, "too_long")]
    {
        assert_eq!(Source::parse(text).map_err(|invalid| invalid.code), Err(code), "{text:?}");
    }
    assert_eq!(Source::parse("default"), Ok(Source::default()));
}

#[test]
fn customer_ids_are_letters_digits_hyphens_underscores() {
    for text in ["GIG00001", "a-b_C9", &"c".repeat(64)] {
        assert_eq!(CustomerId::parse(text).unwrap().as_str(), text);
    }
    let bad = ["GIG 1", "GIG.1", "GIG{1}", "GIG\u{661}"].map(|text| (text, "bad_character"));
    let long = "c".repeat(65);
    for (text, code) in bad.into_iter().chain([("", "empty"), (&long, "too_long")]) {
        assert_eq!(CustomerId::parse(text).map_err(|invalid| invalid.code), Err(code), "{text:?}");
    }
}

#[test]
fn statuses_are_read_as_they_are_written() {
    for status in [PaymentStatus::Complete, PaymentStatus::Pending, PaymentStatus::Failed] {
        assert_eq!(PaymentStatus::parse(status.as_str()), Ok(status));
    }
    for other in ["", "complete", "Complete", "COMPLETE ", "COMPLETED", "REVERSED"] {
        assert_eq!(PaymentStatus::parse(other).unwrap_err().code, "unknown_status", "{other:?}");
    }
}

#[test]
fn dates_are_read_in_their_zone() {
    #[track_caller]
    fn check(text: &str, zone: Tz, expected: &str) {
        let expected: DateTime<Utc> = expected.parse().unwrap();
        assert_eq!(parse_date(text, zone), Ok(expected), "{text:?}");
    }
    check("2025-11-07 14:54:16", Lagos, "2025-11-07T13:54:16Z");
    check("2025-11-07 14:54:16", Tz::UTC, "2025-11-07T14:54:16Z");
    check("2025-01-01 00:30:00", Lagos, "2024-12-31T23:30:00Z");
    check("2024-02-29 12:00:00", Lagos, "2024-02-29T11:00:00Z");
    check("2025-11-07T14:54:16+01:00", Berlin, "2025-11-07T13:54:16Z");
    check("2025-11-07T13:54:16Z", Lagos, "2025-11-07T13:54:16Z");
    check("2025-11-07T09:24:16-04:30", Lagos, "2025-11-07T13:54:16Z");
    // To the microsecond: what is finer is cut off, not rounded.
    check("2025-11-07T13:54:16.123456789Z", Lagos, "2025-11-07T13:54:16.123456Z");
    check("2025-11-07T13:54:16.9999999Z", Lagos, "2025-11-07T13:54:16.999999Z");
    // A leap second is the second after it.
    check("2016-12-31 23:59:60", Tz::UTC, "2017-01-01T00:00:00Z");
    check("2016-12-31T23:59:60Z", Lagos, "2017-01-01T00:00:00Z");
    // An hour that the clocks repeat is its first occurrence.
    check("2025-10-26 02:30:00", Berlin, "2025-10-26T00:30:00Z");
}

#[test]
fn other_dates_are_refused() {
    let refused = [
        "",
        "yesterday",
        "2025-11-07",
        "2025-11-07 14:54",
        "2025-1-7 1:2:3",
        "2025-1-7 14:54:160",
        "2025-11-07 1:02:003",
        " 2025-11-07 1:02:03",
        "2025-11-07  4:54:16",
        "2025-11-07\t14:54:16",
        "+2025-11-7 14:54:16",
        "2025-02-30 10:00:00",
        "2025-02-29 10:00:00",
        "2025-13-01 10:00:00",
        "2025-11-07 24:00:00",
        "2025-11-07 14:60:00",
        "2025-11-07 14:54:61",
        "2025-11-07 14-54-16",
        "07-11-2025 14:54:16",
        "2025-11-07T14:54:16",
        "2025-11-07T14:54:16+01",
        "2025-02-30T10:00:00Z",
        "2025-11-07 14:54:1\u{661}",
        "1762523656",
    ];
    // The clocks skipped this hour.
    let skipped = ("2025-03-30 02:30:00", Berlin);
    for (text, zone) in refused.map(|text| (text, Lagos)).into_iter().chain([skipped]) {
        let refused = parse_date(text, zone).map_err(|invalid| invalid.code);
        assert_eq!(refused, Err("bad_date"), "{text:?}");
    }
}

fn payment(customer: &str, status: &str, amount: &str, date: &str) -> Payment {
    Payment {
        reference: Reference::parse("VPAY25110713542114478761522000").unwrap(),
        customer: CustomerId::parse(customer).unwrap(),
        status: PaymentStatus::parse(status).unwrap(),
        amount: Amount::parse(amount).unwrap(),
        date: parse_date(date, Lagos).unwrap(),
    }
}

#[test]
fn digest_is_of_the_content_however_it_is_written() {
    let first = payment("GIG00001", "COMPLETE", "10000.50", "2025-11-07 14:54:16");
    #[track_caller]
    fn same(first: &Payment, other: &Payment) {
        assert_eq!(first.digest(), other.digest(), "{first:?} {other:?}");
    }
    #[track_caller]
    fn different(first: &Payment, other: &Payment) {
        assert_ne!(first.digest(), other.digest(), "{first:?} {other:?}");
    }
    let with = |customer, status, amount, date| payment(customer, status, amount, date);
    same(&first, &with("GIG00001", "COMPLETE", "10000.5", "2025-11-07 14:54:16"));
    same(&first, &with("GIG00001", "COMPLETE", "0010000.50", "2025-11-07T13:54:16Z"));
    same(&first, &with("GIG00001", "COMPLETE", "10000.50", "2025-11-07T14:54:16+01:00"));
    same(&first, &with("GIG00001", "COMPLETE", "10000.50", "2025-11-07T13:54:16.0000009Z"));
    different(&first, &with("GIG00002", "COMPLETE", "10000.50", "2025-11-07 14:54:16"));
    different(&first, &with("GIG00001", "PENDING", "10000.50", "2025-11-07 14:54:16"));
    different(&first, &with("GIG00001", "COMPLETE", "10000.51", "2025-11-07 14:54:16"));
    different(&first, &with("GIG00001", "COMPLETE", "1000050", "2025-11-07 14:54:16"));
    different(&first, &with("GIG00001", "COMPLETE", "10000.50", "2025-11-07 14:54:17"));
    different(&first, &with("GIG00001", "COMPLETE", "10000.50", "2025-11-07T13:54:16.000001Z"));
    // It is stored: another rule would make every resent payment a conflict.
    assert_eq!(first.digest().to_string(), "370795178fb9afae42b07f829dd95ca5");
}

#[test]
fn stream_ids_are_ordered_as_pairs() {
    #[track_caller]
    fn check(lower: &str, higher: &str) {
        let (low, high): (StreamId, StreamId) = (lower.parse().unwrap(), higher.parse().unwrap());
        assert!(low < high, "{lower} {higher}");
        assert_eq!((low.to_string(), high.to_string()), (lower.to_owned(), higher.to_owned()));
    }
    check("9-9", "10-0");
    check("1-9", "1-10");
    check("999-0", "1762523656000-0");
    check("0-0", "0-1");
    check("0-18446744073709551615", "1-0");
    check("18446744073709551614-0", "18446744073709551615-18446744073709551615");
    assert_eq!("5".parse(), Ok(StreamId { milliseconds: 5, number: 0 }));
    assert_eq!(StreamId::default().to_string(), "0-0");
    for nonsense in ["", "-", "1-", "-1", "a-1", "1-b", "1-2-3", "1 -2", "18446744073709551616-0"] {
        assert!(nonsense.parse::<StreamId>().is_err(), "{nonsense:?}");
    }
}

/// A customer whose partition changes loses the order of its payments: these
/// values may never change.
#[test]
fn customers_keep_their_partition() {
    #[track_caller]
    fn check(customer: &str, of_32: u16, of_1024: u16) {
        let customer = CustomerId::parse(customer).unwrap();
        let found = (partition_of(&customer, 32), partition_of(&customer, 1024));
        assert_eq!(found, (of_32, of_1024), "{customer:?}");
        assert_eq!(partition_of(&customer, 1), 0);
    }
    check("GIG00001", 13, 685);
    check("GIG00002", 12, 12);
    check("GIG00500", 6, 646);
    check("a", 31, 543);
    check("customer_with-a-rather-long-name", 24, 536);
    check("0123456789012345678901234567890123456789012345678901234567890123", 30, 158);
}

#[test]
fn customers_spread_over_partitions() {
    let mut customers = [0_u32; 32];
    for number in 1..=32_000 {
        let customer = CustomerId::parse(format!("GIG{number:05}")).unwrap();
        customers[usize::from(partition_of(&customer, 32))] += 1;
    }
    // 1,000 are expected in each, with a standard deviation of about 31.
    assert!(customers.iter().all(|count| (850..1150).contains(count)), "{customers:?}");
}
