//! Proves that what is exported is the catalogue: every metric of it, with its
//! unit, its kind, its attributes and no others, and never anything that names
//! a payment or a customer.

use std::cell::Cell;

use paystream::telemetry::catalog::{self, METRICS};

use crate::{
    otlp::{
        Sink,
        received::{Kind, Number, Series},
    },
    prelude::*,
    telemetry::{both, exporting, sink},
};

/// A reference, customers and an amount that nothing else is called.
const REFERENCE: &str = "refTELLTALE";
const CUSTOMERS: [&str; 2] = ["cusTELLTALE1", "cusTELLTALE2"];
const AMOUNT: &str = "73.19";

/// Everything that can happen to payments, and to the one who settles them.
async fn a_mixed_run(stores: &Stores, sink: &Sink) {
    refuse_poison(stores).await;
    let attempts = [("PAYSTREAM_ATTEMPTS_MAX", "2")];
    let (gateway, _ada) = both(stores, &sink.url(), "1", &attempts).await;
    let api = &gateway.api;
    for customer in CUSTOMERS {
        api.open_account(customer, "1000").await;
    }
    let paid = payment(REFERENCE, CUSTOMERS[0], AMOUNT);
    let replies = [
        (api.pay_and_wait(&paid).await, 200),
        (api.post_payment(&paid).await, 200),
        (api.post_payment(&but(paid.clone(), json!({"transaction_amount": "73.20"}))).await, 409),
        (api.post_payment(&but(paid, json!({"transaction_amount": "-73.19"}))).await, 422),
        (api.post_payment(&payment("POISON", CUSTOMERS[0], AMOUNT)).await, 202),
        (api.post_payment(&payment("nobodyTELLTALE", "strangerTELLTALE", AMOUNT)).await, 202),
        (api.get(&format!("/api/v1/customers/{}/balance", CUSTOMERS[0])).await, 200),
        (api.get("/nowhere/TELLTALE").await, 404),
    ];
    for (reply, status) in replies {
        assert_eq!(reply.status, status, "{}", reply.text);
    }
    api.until_settled().await;
    until_exported(sink).await;
}

/// Metrics that were not exported, by name.
fn missing(sink: &Sink) -> Vec<&'static str> {
    let exported: BTreeSet<String> = sink.series().into_iter().map(|one| one.name).collect();
    METRICS.iter().map(|metric| metric.name).filter(|name| !exported.contains(*name)).collect()
}

async fn until_exported(sink: &Sink) {
    let before = Cell::new(METRICS.len());
    until("every metric was exported", async || {
        let missing = missing(sink);
        if missing.len() < before.replace(missing.len()) {
            println!("not yet exported: {missing:?}");
        }
        missing.is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_is_exported_is_the_catalogue() {
    let (stores, sink) = (Stores::new().await, sink().await);
    a_mixed_run(&stores, &sink).await;
    let catalogue: BTreeMap<&str, _> = METRICS.iter().map(|metric| (metric.name, metric)).collect();
    for series in sink.series() {
        let name = series.name.as_str();
        let Some(metric) = catalogue.get(name) else { panic!("{name} is not in the catalogue") };
        assert_eq!(series.unit, metric.unit, "{name}");
        assert_eq!(series.description, metric.description, "{name}");
        assert_kind(&series, metric.kind);
        assert_attributes(&series, metric.attributes);
    }
    for (outcome, count) in
        [("accepted", 3.0), ("duplicate", 1.0), ("conflict", 1.0), ("invalid", 1.0)]
    {
        let total =
            sink.total("paystream.payments.received", &[("paystream.outcome", json!(outcome))]);
        assert!((total - count).abs() < 0.5, "{outcome}: {total}");
    }
}

fn assert_kind(series: &Series, wanted: catalog::Instrument) {
    let name = &series.name;
    let kind = match wanted {
        catalog::Instrument::Counter => Kind::Counter,
        catalog::Instrument::UpDownCounter => Kind::UpDownCounter,
        catalog::Instrument::Gauge => Kind::Gauge,
        catalog::Instrument::Histogram(_) => Kind::Histogram,
    };
    assert_eq!(series.kind, kind, "{name}");
    match (wanted, &series.value) {
        (catalog::Instrument::Histogram(wanted), Number::Spread { bounds, .. }) => {
            assert_eq!(bounds, wanted, "{name}");
        }
        (_, value) => assert!(matches!(value, Number::Plain(_)), "{name}"),
    }
}

/// None but those of the catalogue, and none that names anybody.
fn assert_attributes(series: &Series, wanted: &[&str]) {
    for (attribute, value) in &series.attributes {
        let what = format!("{} {attribute}={value}", series.name);
        assert!(wanted.contains(&attribute.as_str()), "{what}");
        assert!(!value.to_string().contains("TELLTALE"), "{what}");
        assert!(!value.to_string().contains("73."), "{what}");
        assert!(matches!(value, Value::String(_) | Value::Number(_)), "{what}");
    }
}

#[tokio::test]
async fn payments_of_a_batch_that_finds_no_redis_are_counted_each() {
    let (stores, sink) = (Stores::new().await, sink().await);
    let (url, network) = (sink.url(), Proxy::before(&stores.redis_url).await);
    let away =
        [("PAYSTREAM_REDIS_URL", network.url.as_str()), ("PAYSTREAM_APPEND_DEADLINE", "300ms")];
    let settings = [exporting(&url, "0"), away.to_vec()].concat();
    let gateway = Process::serve("gateway", &stores, &settings).await;
    network.set(Way::Cut);
    let payments =
        json!([payment("b1", "ADA", "1"), payment("b2", "BOB", "1"), payment("b3", "C", "1")]);
    gateway.api.post("/api/v1/payments/batch", &payments).await.is(503);
    until("all three are counted", async || {
        let overloaded = [("paystream.outcome", json!("overloaded"))];
        let total = sink.total("paystream.payments.received", &overloaded);
        total.round() == 3.0
    })
    .await;
}
