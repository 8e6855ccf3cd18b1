//! How long single steps of a payment take, in memory: reading, hashing, entries, replies of the append
//! script, decisions, answers. `make micro` measures them, `make test` runs each once. Never asks a
//! server; what a payment costs in all is measured by `make bench`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails, and says where")]

use std::hint::black_box;

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use chrono_tz::Africa::Lagos;
use clap::{Args as _, Command, FromArgMatches as _};
use divan::{Bencher, bench, counter::ItemsCount};
use paystream::{
    config::GatewayConfig,
    domain::{
        Account, Amount, Book, Delivery, Outcome, Payment, Source, StreamId, parse_date,
        partition_of,
    },
    http::measured::{BodyReader, accepted},
    stream::{
        Appended, EntryPosition, fields_of,
        measured::{Name, read_appended},
        read_fields,
    },
};
use redis::Value;
use rust_decimal::Decimal;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u16 = 32;
/// Customers whose payments a batch has.
const CUSTOMERS: usize = 100;

fn main() {
    divan::main();
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_762_523_656_123).unwrap()
}

/// The settings that a gateway has without being told any.
fn config() -> GatewayConfig {
    let command = GatewayConfig::augment_args(Command::new("micro"));
    GatewayConfig::from_arg_matches(&command.get_matches_from(["micro"])).unwrap()
}

/// One payment as a bank sends it.
fn json(number: usize) -> String {
    let customer = number % CUSTOMERS;
    format!(
        r#"{{"customer_id":"GIG{customer:05}","payment_status":"COMPLETE","transaction_amount":"10000.50","transaction_date":"2025-11-07 14:54:16","transaction_reference":"VPAY{number:026}"}}"#
    )
}

fn json_array(count: usize) -> Bytes {
    let items: Vec<String> = (0..count).map(json).collect();
    format!("[{}]", items.join(",")).into()
}

fn payments(count: usize) -> Vec<Payment> {
    let payments = BodyReader::new(&Source::default(), &config(), now()).batch(&json_array(count));
    assert_eq!(payments.len(), count);
    payments
}

fn payment() -> Payment {
    payments(1).remove(0)
}

fn deliveries(count: usize) -> Vec<Delivery> {
    let deliver = |(sequence, payment): (i64, Payment)| Delivery {
        partition: partition_of(&payment.customer, PARTITIONS),
        sequence,
        stream_id: StreamId { milliseconds: 1_762_523_656_123, number: 0 },
        received_at: now(),
        digest: payment.digest(),
        payment,
        trace: None,
        evidence: None,
    };
    (1..).zip(payments(count)).map(deliver).collect()
}

#[bench]
fn parse_amount() -> Amount {
    Amount::parse(black_box("10000.50")).unwrap()
}

#[bench(args = ["2025-11-07 14:54:16", "2025-11-07T14:54:16+01:00"])]
fn parse_date_of(text: &str) -> DateTime<Utc> {
    parse_date(text, Lagos).unwrap()
}

#[bench]
fn parse_payment(bencher: Bencher<'_, '_>) {
    let (source, config, json) = (Source::default(), config(), json(0));
    bencher.bench_local(|| {
        let reading = BodyReader::new(&source, &config, now());
        reading.payment(black_box(json.as_bytes())).unwrap()
    });
}

#[bench(args = [1_000])]
fn parse_batch(bencher: Bencher<'_, '_>, count: usize) {
    let (source, config, json) = (Source::default(), config(), json_array(count));
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| BodyReader::new(&source, &config, now()).batch(black_box(&json)));
}

#[bench]
fn hash_content(bencher: Bencher<'_, '_>) {
    let payment = payment();
    bencher.bench_local(|| black_box(&payment).digest());
}

#[bench]
fn hash_reference(bencher: Bencher<'_, '_>) {
    let payment = payment();
    bencher.bench_local(|| Name::of(black_box(&payment.reference)));
}

#[bench]
fn hash_customer(bencher: Bencher<'_, '_>) {
    let payment = payment();
    bencher.bench_local(|| partition_of(black_box(&payment.customer), PARTITIONS));
}

#[bench]
fn write_entry(bencher: Bencher<'_, '_>) {
    let delivery = deliveries(1).remove(0);
    bencher.bench_local(|| fields_of(black_box(&delivery)));
}

#[bench]
fn read_entry(bencher: Bencher<'_, '_>) {
    let delivery = deliveries(1).remove(0);
    let fields = fields_of(&delivery);
    let Delivery { partition, stream_id, .. } = delivery;
    let read = || read_fields(partition, stream_id, black_box(&fields)).unwrap();
    assert_eq!(read(), delivery);
    bencher.bench_local(read);
}

/// What the append script answers where every payment is new.
fn reply(count: usize) -> Value {
    let answer = |sequence| format!("appended {sequence} 1762523656123-{sequence}").into_bytes();
    Value::Array((1..=count).map(answer).map(Value::BulkString).collect())
}

#[bench(args = [1, 200])]
fn read_replies(bencher: Bencher<'_, '_>, count: usize) {
    let read = |reply| read_appended(redis::from_redis_value(reply).unwrap(), 7, count).unwrap();
    let is_accepted = |result: &Result<_, _>| matches!(result, Ok(Appended::Accepted(_)));
    assert!(read(reply(count)).iter().all(is_accepted));
    bencher.counter(ItemsCount::new(count)).with_inputs(|| reply(count)).bench_local_values(read);
}

/// As a batch decides: the accounts are read, and no reference was used before.
#[bench(args = [1, 500])]
fn decide(bencher: Bencher<'_, '_>, count: usize) {
    let deliveries = deliveries(count);
    let accounts: Vec<Account> = deliveries.iter().take(CUSTOMERS).map(account_of).collect();
    let decide = |accounts: Vec<Account>| {
        let mut book = Book::new(accounts, []);
        let outcomes: Vec<Outcome> = deliveries.iter().map(|one| book.decide(one)).collect();
        (book, outcomes)
    };
    let is_applied = |outcome: &Outcome| matches!(outcome, Outcome::Applied { .. });
    assert!(decide(accounts.clone()).1.iter().all(is_applied));
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| accounts.clone())
        .bench_local_values(decide);
}

fn account_of(delivery: &Delivery) -> Account {
    Account {
        customer: delivery.payment.customer.clone(),
        asset_value: Decimal::from(1_000_000),
        total_paid: Decimal::ZERO,
        credit: Decimal::ZERO,
        payment_count: 0,
        version: 0,
        parked: false,
    }
}

#[bench]
fn answer_accepted(bencher: Bencher<'_, '_>) {
    let payment = payment();
    let stream_id = StreamId { milliseconds: 1_762_523_656_123, number: 0 };
    let place = EntryPosition { partition: 7, sequence: 4711, stream_id };
    bencher.bench_local(|| accepted(black_box(&payment), place));
}
