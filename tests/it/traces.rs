//! Proves what a trace tells: a payment is one trace from its request to its
//! acknowledgement, over two processes, with every attempt at it, those of
//! workers that were killed and of operators included.

use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use uuid::Uuid;

use crate::{
    otlp::{
        Sink,
        received::{Span, text},
    },
    prelude::*,
    telemetry::{Trace, assert_has, both, exporting, named_by, sink},
};

pub const POST: &str = "POST /api/v1/payments";
pub const SEND: &str = "send payments";
const RECEIVE: &str = "receive payments";
pub const PROCESS: &str = "process payments";
const INSERT: &str = "INSERT processed_transactions";
const ACK: &str = "ack payments";
const BURY: &str = "bury payments";
const REFERENCE: &str = "a-reference-that-no-trace-tells";
const BATCH: &str = "settle batch";
/// Spans of a payment: its request, its way into the stream and out of it.
pub const SPANS: usize = 3;
/// Spans of a batch that was settled.
pub const SPANS_OF_BATCH: usize = 4;
/// The ids of the spans that it links to.
fn links(span: &Span) -> Vec<&str> {
    span.links.iter().map(|link| link.span_id.as_str()).collect()
}

/// Waits until the ledger has so many rows, without a request.
pub async fn until_posted(stores: &Stores, rows: i64) {
    stores.until(rows, "select count(*) from processed_transactions").await;
}

#[tokio::test]
async fn a_posted_payment_is_one_trace_over_two_processes_and_reaches_its_batch() {
    let (stores, sink) = (Stores::new().await, sink().await);
    let (gateway, ada) = both(&stores, &sink.url(), "1", &[]).await;
    gateway.api.open_account("ADA", "100").await;
    let reply = gateway.api.post_payment(&payment(REFERENCE, "ADA", "10")).await.is(202);
    let (trace_id, answered) = named_by(reply.header("traceparent"));
    Trace::of(&sink, &trace_id, SPANS).await.batch(&sink).await;
    ada.stop().await;
    gateway.stop().await;
    let trace = Trace(sink.trace(&trace_id));
    let batch = trace.batch(&sink).await;
    assert_eq!((trace.0.len(), batch.0.len()), (SPANS, SPANS_OF_BATCH), "{:#?}", trace.0);

    let [post, send, process] = [POST, SEND, PROCESS].map(|name| trace.only(name));
    let [settle, receive, insert, ack] = [BATCH, RECEIVE, INSERT, ACK].map(|name| batch.only(name));
    assert_eq!(post.span_id, answered, "the answer names the request's span");
    let shape: Vec<_> = [post, send, process, settle, receive, insert, ack]
        .map(|span| (span.kind, span.parent_id.as_str(), span.service(), links(span)))
        .into();
    let (gateway, worker) = ("paystream-gateway", "paystream-worker");
    let (sent, processed) = (send.span_id.as_str(), process.span_id.as_str());
    let root = settle.span_id.as_str();
    assert_eq!(
        shape,
        [
            (SpanKind::Server, "", gateway, vec![]),
            (SpanKind::Producer, answered.as_str(), gateway, vec![]),
            (SpanKind::Consumer, sent, worker, vec![root]),
            (SpanKind::Internal, "", worker, vec![processed]),
            (SpanKind::Client, root, worker, vec![sent]),
            (SpanKind::Client, root, worker, vec![]),
            (SpanKind::Client, root, worker, vec![]),
        ]
    );
    for span in trace.0.iter().chain(&batch.0) {
        assert!(span.start > 0 && span.end >= span.start, "{span:?}");
        assert_eq!(span.status, StatusCode::Unset, "{span:?}");
        assert_has(
            &span.resource,
            &json!({"service.namespace": "payments", "paystream.trace.sample_ratio": 1.0}),
        );
        assert_eq!(text(&span.resource, "service.version"), env!("CARGO_PKG_VERSION"));
    }
    let instance = |span: &Span| text(&span.resource, "service.instance.id").parse::<Uuid>();
    assert_ne!(instance(post).unwrap(), instance(process).unwrap(), "one of each start");
    let hidden = hidden(&stores, REFERENCE).await;
    assert_attributes(&stores, &Trace([trace.0, batch.0].concat()), &reply, &hidden);
    let told = format!("{:?}", sink.spans());
    assert!(!told.contains(REFERENCE) && !told.contains("ADA"), "{told}");
}

/// As a trace names a reference.
async fn hidden(stores: &Stores, reference: &str) -> String {
    let key = stores.values::<Vec<u8>>("select trace_key from topology").await.swap_remove(0);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let tag = ring::hmac::sign(&key, reference.as_bytes());
    tag.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As the conventions have them, with what the answer said.
fn assert_attributes(stores: &Stores, trace: &Trace, reply: &Reply, hidden: &str) {
    let address = |url: &str| {
        let url = reqwest::Url::parse(url).unwrap();
        json!({"server.address": url.host_str(), "server.port": url.port()})
    };
    let place = reply.json();
    let partition = place["partition"].to_string();
    let common = json!({"messaging.system": "redis", "messaging.destination.name": "payments"});
    for name in [SEND, RECEIVE, PROCESS, ACK] {
        assert_has(&trace.only(name).attributes, &common);
        assert_has(&trace.only(name).attributes, &address(&stores.redis_url));
    }
    assert_has(&trace.only(INSERT).attributes, &address(&stores.database_url));
    let database = stores.database_url.rsplit('/').next().unwrap();
    let wanted = [
        (
            POST,
            json!({"http.request.method": "POST", "http.route": "/api/v1/payments",
                "http.response.status_code": 202, "url.scheme": "http",
                "url.path": "/api/v1/payments"}),
        ),
        (
            SEND,
            json!({"messaging.operation.name": "send", "messaging.operation.type": "send",
                "messaging.destination.partition.id": partition,
                "messaging.message.id": place["stream_id"],
                "paystream.outcome": "accepted", "paystream.reference": hidden}),
        ),
        (
            RECEIVE,
            json!({"messaging.operation.name": "receive", "messaging.operation.type": "receive",
                "messaging.consumer.group.name": "ledger", "messaging.batch.message_count": 1}),
        ),
        (
            PROCESS,
            json!({"messaging.operation.name": "process", "messaging.operation.type": "process",
                "messaging.message.id": place["stream_id"], "paystream.outcome": "applied",
                "paystream.attempt": 1, "paystream.reference": hidden}),
        ),
        (
            INSERT,
            json!({"db.system.name": "postgresql", "db.namespace": database,
                "db.operation.name": "INSERT",
                "db.collection.name": "processed_transactions", "db.operation.batch.size": 1}),
        ),
        (ACK, json!({"messaging.operation.name": "ack", "messaging.operation.type": "settle"})),
    ];
    for (name, wanted) in wanted {
        assert_has(&trace.only(name).attributes, &wanted);
        assert!(!trace.only(name).attributes.contains_key("error.type"), "{name}");
    }
}

#[tokio::test]
async fn a_payment_whose_worker_was_killed_shows_both_attempts() {
    let (stores, sink) = (Stores::new().await, sink().await);
    let url = sink.url();
    // Long enough to be killed in, on a busy machine.
    let lease = [("PAYSTREAM_LEASE", "12s"), ("PAYSTREAM_BATCH_DEADLINE", "6s")];
    let (gateway, ada) = both(&stores, &url, "1", &lease).await;
    gateway.api.open_account("ADA", "100").await;
    let held = lock(&stores, "processed_transactions", "share").await;
    let reply = gateway.api.post_payment(&payment("one", "ADA", "10")).await;
    let (trace_id, _) = named_by(reply.header("traceparent"));
    until("it is in the middle of its batch", async || {
        sessions(&stores, "ada", "wait_event_type = 'Lock'").await > 0
    })
    .await;
    ada.kill().await;
    drop(held);
    let bob = worker(&stores, "bob", &[&exporting(&url, "1")[..], &lease].concat()).await;
    until_posted(&stores, 1).await;
    let batch = Trace::of(&sink, &trace_id, SPANS + 1).await.batch(&sink).await;
    bob.stop().await;
    gateway.stop().await;
    let trace = Trace(sink.trace(&trace_id));
    assert_eq!(trace.0.len(), SPANS + 1, "{:#?}", trace.0);
    let send = trace.only(SEND);
    let [lost, done] = trace.named(PROCESS)[..] else { panic!("{:#?}", trace.0) };
    assert_eq!((&lost.parent_id, &done.parent_id), (&send.span_id, &send.span_id));
    assert_eq!((lost.status, done.status), (StatusCode::Error, StatusCode::Unset));
    assert_has(
        &lost.attributes,
        &json!({"error.type": "worker_lost", "paystream.worker": "ada", "paystream.attempt": 1}),
    );
    assert_has(&done.attributes, &json!({"paystream.outcome": "applied", "paystream.attempt": 2}));
    assert_eq!(links(done), [&batch.only(BATCH).span_id, &lost.span_id]);
    assert!(lost.start < done.start);
    assert_eq!(links(batch.only(BATCH)), [&done.span_id]);
}

/// A dead letter's attempts, in the order in which they were made, and its end.
fn assert_dead_letter(trace: &Trace) {
    let attempts = trace.named(PROCESS);
    assert!(attempts.len() >= 2, "{:#?}", trace.0);
    for (before, after) in attempts.iter().zip(&attempts[1..]) {
        assert!(links(after).contains(&before.span_id.as_str()), "{after:#?}");
    }
    for attempt in &attempts {
        assert_eq!(attempt.status, StatusCode::Error, "{attempt:?}");
        assert_eq!(text(&attempt.attributes, "paystream.reference").len(), 32, "{attempt:?}");
        assert!(attempt.attributes.contains_key("error.type"), "{attempt:?}");
        assert!(!attempt.attributes.contains_key("paystream.outcome"), "{attempt:?}");
    }
    let bury = trace.only(BURY);
    let all: Vec<&str> = attempts.iter().map(|span| span.span_id.as_str()).collect();
    assert_eq!(links(bury), all);
    assert_eq!(bury.status, StatusCode::Error);
    assert_has(&bury.attributes, &json!({"paystream.outcome": "dead_lettered"}));
}

#[tokio::test]
async fn a_dead_letter_shows_its_attempts() {
    let (stores, sink) = (Stores::new().await, sink().await);
    refuse_poison(&stores).await;
    let attempts = [("PAYSTREAM_ATTEMPTS_MAX", "2")];
    let (gateway, _ada) = both(&stores, &sink.url(), "1", &attempts).await;
    gateway.api.open_account("ADA", "100").await;
    let reply = gateway.api.post_payment(&payment("POISON", "ADA", "10")).await;
    let (trace_id, _) = named_by(reply.header("traceparent"));
    until_buried(&sink).await;
    let trace = Trace(sink.trace(&trace_id));
    assert_dead_letter(&trace);
    let send = &trace.only(SEND).span_id.clone();
    assert!(trace.named(PROCESS).iter().all(|span| span.parent_id == *send));

    // Redriven, it goes on in its own trace, and names the operator's request.
    allow_poison(&stores).await;
    let letter = stores.count("select id from dead_letters").await;
    let path = format!("/api/v1/admin/dead-letters/{letter}/redrive");
    let redrive =
        gateway.api.post(&path, &json!({"reason": "a test", "actor": "ada"})).await.is(200);
    let (request_trace, request) = named_by(redrive.header("traceparent"));
    assert_ne!(request_trace, trace_id);
    let attempts = trace.named(PROCESS).len();
    let trace = Trace::of(&sink, &trace_id, trace.0.len() + 1).await;
    let redriven = trace.named(PROCESS)[attempts];
    assert_eq!((redriven.service(), &redriven.parent_id), ("paystream-gateway", send));
    assert!(links(redriven).contains(&request.as_str()), "{redriven:#?}");
    assert_has(&redriven.attributes, &json!({"paystream.outcome": "applied"}));
}

#[tokio::test]
async fn a_dead_letter_that_was_not_to_be_traced_is_one_trace_all_the_same() {
    let (stores, sink) = (Stores::new().await, sink().await);
    refuse_poison(&stores).await;
    let attempts = [("PAYSTREAM_ATTEMPTS_MAX", "3")];
    let (gateway, ada) = both(&stores, &sink.url(), "0", &attempts).await;
    gateway.api.open_account("ADA", "100").await;
    let stranger = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = gateway.api.request(Method::POST, "/api/v1/payments");
    let request = request.header("traceparent", stranger).json(&payment("POISON", "ADA", "10"));
    let reply = send(request).await;
    assert_eq!(reply.header("traceparent"), "", "nobody knew that it would fail");
    until_buried(&sink).await;
    ada.stop().await;
    gateway.stop().await;
    let spans = sink.spans();
    let bury = spans.iter().find(|span| span.name == BURY).unwrap();
    assert_dead_letter(&Trace(sink.trace(&bury.trace_id)));
    let not_of_batches: Vec<_> =
        spans.iter().filter(|it| [PROCESS, BURY].contains(&&*it.name)).collect();
    assert!(!stranger.contains(&bury.trace_id), "one that nobody else can name");
    for attempt in spans.iter().filter(|span| span.name == PROCESS) {
        assert!(links(attempt).contains(&"b7ad6b7169203331"), "{attempt:#?}");
    }
    assert!(not_of_batches.iter().all(|it| it.trace_id == bury.trace_id), "one trace: {spans:#?}");
    assert!(!spans.iter().any(|span| span.name == INSERT), "nothing was committed");
    for span in &spans {
        assert_has(&span.resource, &json!({"paystream.trace.sample_ratio": 0.0}));
        assert_has(&span.attributes, &json!({"paystream.trace.unsampled": true}));
    }
}

async fn until_buried(sink: &Sink) {
    until("it is buried", async || sink.spans().iter().any(|span| span.name == BURY)).await;
}
