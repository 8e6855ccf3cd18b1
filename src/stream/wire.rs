//! The format of a payment in a stream entry.
//!
//! Entries outlive the program that wrote them, so each carries a version and
//! old versions stay readable. Other consumer groups read the same entries:
//! fields are plain text, the payment is JSON. Never decides what happens to
//! an entry that cannot be read; it only says why.

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use crate::{
    domain::{
        Amount, CustomerId, DeadEntry, Delivery, Evidence, Payment, PaymentStatus, Reference,
        Source, StreamId, parse_date,
    },
    telemetry::traceparent::{self, TRACEPARENT},
};

/// Of the source `default`, as releases before had no other.
const WITHOUT_SOURCE: &str = "1";
const WITH_SOURCE: &str = "2";
const SOURCE: &str = "source";
const EVIDENCE: &str = "evidence";
/// No sequence is higher: scripts in Redis count in doubles.
pub(super) const SEQUENCE_MAX: i64 = (1 << 53) - 1;

/// The payment as JSON in the field `payment`.
#[derive(Serialize, Deserialize)]
struct PaymentText<'a> {
    /// Visible ASCII: a quote or a backslash is escaped in JSON.
    #[serde(borrow)]
    transaction_reference: Cow<'a, str>,
    customer_id: &'a str,
    payment_status: &'a str,
    transaction_amount: &'a str,
    transaction_date: &'a str,
}

/// What was signed, as JSON in the field `evidence`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Evidence")]
struct EvidenceText {
    scheme: String,
    key: String,
    signature: String,
    base: String,
    body: String,
}

/// One entry's fields as Redis gave them.
pub(super) type Fields = Vec<(String, Vec<u8>)>;

pub(super) fn encode(payment: &Payment) -> String {
    let text = PaymentText {
        transaction_reference: payment.reference.given().into(),
        customer_id: payment.customer.as_str(),
        payment_status: payment.status.as_str(),
        transaction_amount: &payment.amount.to_string(),
        transaction_date: &payment.date.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    };
    serde_json::to_string(&text).unwrap_or_else(|_| unreachable!("strings always become JSON"))
}

/// The version of an entry and its source, where it names one.
pub(super) fn version(reference: &Reference) -> (&'static str, Option<&str>) {
    match reference.source() {
        Source::DEFAULT => (WITHOUT_SOURCE, None),
        source => (WITH_SOURCE, Some(source)),
    }
}

pub(super) fn encode_evidence(evidence: &Evidence) -> String {
    let mut json = Vec::new();
    let written = EvidenceText::serialize(evidence, &mut serde_json::Serializer::new(&mut json));
    written.unwrap_or_else(|_| unreachable!("strings always become JSON"));
    String::from_utf8(json).unwrap_or_else(|_| unreachable!("JSON is UTF-8"))
}

/// A delivery as its entry has it, but for the trace context.
pub fn fields_of(delivery: &Delivery) -> Vec<(String, String)> {
    let (version, source) = version(&delivery.payment.reference);
    let fields = [
        ("v", Some(version.to_owned())),
        ("seq", Some(delivery.sequence.to_string())),
        (SOURCE, source.map(str::to_owned)),
        ("payment", Some(encode(&delivery.payment))),
        ("received_at", Some(delivery.received_at.timestamp_millis().to_string())),
        (TRACEPARENT, delivery.trace.as_ref().and_then(traceparent::write)),
        (EVIDENCE, delivery.evidence.as_deref().map(encode_evidence)),
    ];
    let known = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.collect()
}

/// `given_out`: no higher sequence was.
pub(super) fn decode(
    keys: &Keys,
    (partition, given_out): (u16, i64),
    stream_id: StreamId,
    fields: Fields,
) -> Result<Delivery, Box<DeadEntry>> {
    let of_this_partition =
        |delivery: Delivery| match keys.partition_of(&delivery.payment.customer) == partition {
            true => Ok(delivery),
            false => Err(format!("its customer does not belong to partition {partition}")),
        };
    let was_given_out = |delivery: Delivery| match delivery.sequence {
        sequence if sequence <= given_out => Ok(delivery),
        sequence => Err(format!("its sequence {sequence} was not given out by this stream")),
    };
    let delivery = read(partition, stream_id, |name| field(&fields, name));
    delivery.and_then(was_given_out).and_then(of_this_partition).map_err(|reason| {
        let payment = field(&fields, "payment").and_then(|json| serde_json::from_str(json).ok());
        let payment: serde_json::Value = payment.unwrap_or_default();
        let part = |name: &str| payment.get(name).and_then(serde_json::Value::as_str);
        // As far as it can be told: also where the version is not known.
        let source = field(&fields, SOURCE).map_or(Ok(Source::default()), Source::parse).ok();
        let reference = source.zip(part("transaction_reference"));
        let reference = reference.and_then(|(source, text)| Reference::of(&source, text).ok());
        let trace = field(&fields, TRACEPARENT).and_then(traceparent::parse);
        let text = |value| String::from_utf8_lossy(value).into_owned();
        Box::new(DeadEntry {
            partition,
            stream_id,
            sequence: sequence_of(&fields).filter(|sequence| *sequence <= given_out),
            reference: reference.map(|reference| reference.as_str().to_owned()),
            customer: part("customer_id").and_then(|text| CustomerId::parse(text).ok()),
            amount: part("transaction_amount").and_then(|text| Amount::parse(text).ok()),
            trace_id: trace.map(|trace| trace.trace_id),
            reason,
            fields: fields.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        })
    })
}

/// Reads an entry that was kept beside the stream, whatever partition it was
/// in: its customer may belong to another since the topology was changed.
pub fn read_fields(
    partition: u16,
    stream_id: StreamId,
    fields: &[(String, String)],
) -> Result<Delivery, String> {
    let text = |name: &str| {
        let (_, value) = fields.iter().find(|(field, _)| field == name)?;
        Some(value.as_str())
    };
    read(partition, stream_id, text)
}

/// Reads an entry whose fields `text` finds by their names.
fn read<'a>(
    partition: u16,
    stream_id: StreamId,
    text: impl Fn(&str) -> Option<&'a str>,
) -> Result<Delivery, String> {
    let source = source_of(&text)?;
    let sequence = text("seq").and_then(read_sequence);
    let sequence = sequence.ok_or("its sequence is missing or not a number from 1 to 2^53 - 1")?;
    let payment = text("payment").ok_or("the entry has no field payment")?;
    let payment = decode_payment(&source, payment)?;
    let received_at = text("received_at").and_then(|text| text.parse().ok());
    let received_at = received_at
        .and_then(DateTime::<Utc>::from_timestamp_millis)
        .ok_or("its time of receipt is missing or not a number")?;
    let (digest, trace) = (payment.digest(), text(TRACEPARENT).and_then(traceparent::parse));
    let evidence = text(EVIDENCE).and_then(|json| {
        let evidence = EvidenceText::deserialize(&mut serde_json::Deserializer::from_str(json));
        evidence.ok().map(Arc::new)
    });
    Ok(Delivery { partition, sequence, stream_id, received_at, payment, digest, trace, evidence })
}

fn read_sequence(text: &str) -> Option<i64> {
    text.parse().ok().filter(|sequence| (1..=SEQUENCE_MAX).contains(sequence))
}

/// Whose it is.
fn source_of<'a>(text: impl Fn(&str) -> Option<&'a str>) -> Result<Source, String> {
    match text("v") {
        Some(WITHOUT_SOURCE) => Ok(Source::default()),
        Some(WITH_SOURCE) => {
            let source = text(SOURCE).ok_or("the entry has no field source")?;
            Source::parse(source).map_err(|invalid| format!("its source {}", invalid.reason))
        }
        Some(other) => Err(format!("version {other} is not known to this release")),
        None => Err("the entry has no field v".to_owned()),
    }
}

fn decode_payment(source: &Source, json: &str) -> Result<Payment, String> {
    // Strings without escapes are borrowed; only a reference can have some.
    let read: PaymentText<'_> = serde_json::from_str(json)
        .map_err(|error| format!("its payment cannot be read: {error}"))?;
    let bad =
        |name: &str, invalid: crate::domain::Invalid| format!("its {name} {}", invalid.reason);
    Ok(Payment {
        reference: Reference::of(source, read.transaction_reference)
            .map_err(|invalid| bad("transaction_reference", invalid))?,
        customer: CustomerId::parse(read.customer_id)
            .map_err(|invalid| bad("customer_id", invalid))?,
        status: PaymentStatus::parse(read.payment_status)
            .map_err(|invalid| bad("payment_status", invalid))?,
        amount: Amount::parse(read.transaction_amount)
            .map_err(|invalid| bad("transaction_amount", invalid))?,
        date: parse_date(read.transaction_date, Tz::UTC)
            .map_err(|invalid| bad("transaction_date", invalid))?,
    })
}

pub(super) fn sequence_of(fields: &Fields) -> Option<i64> {
    field(fields, "seq").and_then(read_sequence)
}

/// The name of the payment in an entry.
pub(super) fn reference_of(fields: &Fields) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        transaction_reference: Cow<'a, str>,
    }
    let named: Named<'_> = serde_json::from_str(field(fields, "payment")?).ok()?;
    let given = named.transaction_reference;
    match field(fields, "v")? {
        WITH_SOURCE => Some(Cow::Owned([field(fields, SOURCE)?, " ", &given].concat())),
        _ => Some(given),
    }
}

fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let (_, value) = fields.iter().find(|(field, _)| field == name)?;
    std::str::from_utf8(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line per entry that some release has written, as field, value, ….
    const FIXTURES: &str = include_str!("fixtures/entries.tsv");

    fn keys() -> Keys {
        Keys::new("paystream", 1, 1)
    }

    fn fields(line: &str) -> Fields {
        let cells: Vec<&str> = line.split('\t').collect();
        cells
            .chunks_exact(2)
            .map(|pair| (pair[0].to_owned(), pair[1].as_bytes().to_vec()))
            .collect()
    }

    fn decode_line(line: &str) -> Result<Delivery, Box<DeadEntry>> {
        decode(&keys(), (0, 7), StreamId { milliseconds: 5, number: 1 }, fields(line))
    }

    #[test]
    fn entries_of_every_release_decode() {
        let lines: Vec<_> = FIXTURES.lines().collect();
        assert!(!lines.is_empty());
        for line in lines {
            let delivery = decode_line(line).expect(line);
            let name = ["VPAY25110713542114478761522000", "bank-a VPAY25110713542114478761522000"];
            let name = name[usize::from(line.starts_with("v\t2"))];
            assert_eq!(delivery.payment.reference.as_str(), name);
            assert_eq!(reference_of(&fields(line)).as_deref(), Some(name));
            assert_eq!(delivery.payment.customer.as_str(), "GIG00001");
            assert_eq!(delivery.payment.status, PaymentStatus::Complete);
            assert_eq!(delivery.payment.amount.to_string(), "10000.00");
            assert_eq!(delivery.payment.date.to_rfc3339(), "2025-11-07T13:54:16+00:00");
            assert_eq!(delivery.sequence, 7);
            assert_eq!(delivery.received_at.timestamp_millis(), 1_762_523_656_123);
            assert_eq!(delivery.digest.to_string(), "80342a94ccadab743d541d6ef4bd18d1");
        }
    }

    #[test]
    fn what_is_written_today_is_in_the_fixtures() {
        for version in ["v\t1", "v\t2"] {
            let mut lines = FIXTURES.lines().rev().filter(|line| line.starts_with(version));
            let line = lines.next().unwrap();
            let mut written = fields_of(&decode_line(line).unwrap());
            written.retain(|(name, _)| name != TRACEPARENT);
            let written: Vec<_> =
                written.into_iter().map(|(name, value)| format!("{name}\t{value}")).collect();
            let written = written.join("\t");
            assert!(line.starts_with(&written), "add a fixture for the new format: {written}");
        }
    }

    #[test]
    fn a_reference_may_have_any_visible_character() {
        let line = FIXTURES.lines().next_back().unwrap();
        let mut delivery = decode_line(line).unwrap();
        let all: String = (b'!'..=b'~').map(char::from).collect();
        for source in ["default", "bank-a"] {
            let source = Source::parse(source).unwrap();
            delivery.payment.reference = Reference::of(&source, all.clone()).unwrap();
            let read = decode_payment(&source, &encode(&delivery.payment)).unwrap();
            assert_eq!(read, delivery.payment);
        }
    }

    #[track_caller]
    fn check_unreadable(line: &str, reason: &str) {
        let unreadable = decode_line(line).expect_err(line);
        assert!(unreadable.reason.contains(reason), "{}", unreadable.reason);
    }

    #[test]
    fn an_unreadable_entry_says_why() {
        let good = FIXTURES.lines().next_back().unwrap();
        check_unreadable(&good.replacen("v\t2", "v\t99", 1), "version 99");
        for sequence in ["x", "0", "-1", "9007199254740992", "9223372036854775807"] {
            let line = good.replace("seq\t7", &format!("seq\t{sequence}"));
            check_unreadable(&line, "sequence is missing or not a number");
            assert_eq!(decode_line(&line).unwrap_err().sequence, None);
        }
        let beyond = good.replace("seq\t7", "seq\t8");
        check_unreadable(&beyond, "sequence 8 was not given out");
        assert_eq!(decode_line(&beyond).unwrap_err().sequence, None);
        check_unreadable(
            &good.replace("10000.00", "-1"),
            "transaction_amount must not be negative",
        );
        check_unreadable(&good.replace("GIG00001", "GIG 00001"), "customer_id");
        check_unreadable(&good.replace("{", "["), "payment cannot be read");
        check_unreadable("hello\tworld", "no field v");
        check_unreadable(&good.replace("source\tbank-a", "source\tBank A"), "its source must");
        check_unreadable(&good.replace("source\tbank-a\t", ""), "no field source");
    }

    #[test]
    fn an_entry_in_the_wrong_partition_is_unreadable() {
        let fields = fields(FIXTURES.lines().next_back().unwrap());
        let keys = Keys::new("paystream", 32, 1);
        let customer = CustomerId::parse("GIG00001").unwrap();
        let wrong = (keys.partition_of(&customer) + 1) % 32;
        let unreadable =
            decode(&keys, (wrong, SEQUENCE_MAX), StreamId::default(), fields).unwrap_err();
        assert!(unreadable.reason.contains("does not belong"), "{}", unreadable.reason);
        assert_eq!(unreadable.reference.as_deref(), Some("bank-a VPAY25110713542114478761522000"));
        assert_eq!(unreadable.sequence, Some(7));
        assert_eq!(unreadable.customer, Some(customer));
        assert_eq!(unreadable.amount.unwrap().to_string(), "10000.00");
        assert_eq!(unreadable.trace_id.unwrap().to_string(), TRACE);
        // Kept beside the stream it is read all the same.
        let read = read_fields(wrong, StreamId::default(), &unreadable.fields).unwrap();
        assert_eq!((read.sequence, read.partition), (7, wrong));
        assert_eq!(read.payment.reference.as_str(), "bank-a VPAY25110713542114478761522000");
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn an_entry_tells_the_trace_that_brought_it() {
        let traced = FIXTURES.lines().next_back().unwrap();
        assert_eq!(decode_line(traced).unwrap().trace_id().unwrap().to_string(), TRACE);
        let untraced = traced.split("\ttraceparent").next().unwrap();
        assert_eq!(decode_line(untraced).unwrap().trace, None);
        // One that is not as it should be is no reason to refuse a payment.
        for bad in ["00", &"0".repeat(32), &TRACE.to_uppercase(), &TRACE[1..], "\u{e9}"] {
            let line = traced.replace(TRACE, bad);
            assert_eq!(decode_line(&line).unwrap().trace, None, "{bad}");
        }
    }
}
