//! Proves which traces are recorded: who may ask for one, that nothing is sent
//! but what was done, and that what is sent unasked is bounded.

use std::time::Instant;

use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::{
    otlp::received::Span,
    prelude::*,
    telemetry::{Trace, assert_has, both, exporting, named_by, sink},
    traces::{POST, PROCESS, SEND, SPANS, SPANS_OF_BATCH, until_posted},
};

/// Spans a second that a process may send unasked.
const LATE_MAX: u64 = 20;
/// Marks spans that stand for nothing in figures made of spans.
const UNSAMPLED: &str = "paystream.trace.unsampled";
/// A caller's trace, and its span.
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN_ID: &str = "b7ad6b7169203331";

/// Posts a payment as part of a caller's trace.
async fn post_traced(gateway: &Process, reference: &str, flags: &str) -> Reply {
    let request = gateway.api.request(Method::POST, "/api/v1/payments");
    let traceparent = format!("00-{TRACE_ID}-{SPAN_ID}-{flags}");
    send(request.header("traceparent", traceparent).json(&payment(reference, "ADA", "1"))).await
}

#[tokio::test]
async fn a_caller_has_its_requests_traced_only_where_it_is_trusted() {
    let stores = Stores::new().await;
    let caller_is_here = ("PAYSTREAM_TRACE_TRUSTED", "10.0.0.0/8,127.0.0.0/8");
    let caller_is_elsewhere = ("PAYSTREAM_TRACE_TRUSTED", "10.0.0.0/8");
    for (number, (ratio, trusted, flags, traced)) in [
        ("0", caller_is_here, "01", true),
        ("1", caller_is_here, "00", false),
        ("0", caller_is_elsewhere, "01", false),
        ("1", caller_is_elsewhere, "00", true),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{flags} at {ratio} under {trusted:?}");
        let (sink, reference) = (sink().await, format!("p{number}"));
        let (gateway, ada) = both(&stores, &sink.url(), ratio, &[trusted]).await;
        let reply = post_traced(&gateway, &reference, flags).await.is(202);
        let settled =
            format!("select count(*) from suspense where transaction_reference = '{reference}'");
        stores.until(1, &settled).await;
        if traced {
            let (trace_id, span_id) = named_by(reply.header("traceparent"));
            let trace = Trace::of(&sink, &trace_id, SPANS).await;
            let post = trace.only(POST);
            assert_eq!(post.span_id, span_id, "{what}");
            assert_eq!(trace.only(PROCESS).parent_id, trace.only(SEND).span_id, "{what}");
            let links: Vec<_> = post.links.iter().map(|it| (&*it.trace_id, &*it.span_id)).collect();
            if trusted == caller_is_here {
                assert_eq!((&*trace_id, &*post.parent_id), (TRACE_ID, SPAN_ID), "{what}");
                assert_eq!(links, [], "{what}");
            } else {
                // A stranger's trace is not continued, whatever it says.
                assert_ne!(trace_id, TRACE_ID, "{what}");
                assert_eq!(post.parent_id, "", "{what}");
                assert_eq!(links, [(TRACE_ID, SPAN_ID)], "{what}");
            }
            // What the sampler has not chosen must not be multiplied.
            let unsampled = (ratio == "0").then_some(&Value::Bool(true));
            for span in &trace.0 {
                assert_eq!(span.attributes.get(UNSAMPLED), unsampled, "{what}: {span:?}");
            }
        }
        gateway.stop().await;
        ada.stop().await;
        if !traced {
            assert_eq!(reply.header("traceparent"), "", "{what}");
            let of_it = |span: &Span| [POST, SEND, PROCESS].contains(&span.name.as_str());
            assert!(!sink.spans().iter().any(of_it), "{what}: {:#?}", sink.spans());
        }
    }
}

/// Posts one payment after another, each alone in its batch, and counts spans.
async fn send_nothing_but_these_spans(protocol: &str) {
    const PAYMENTS: usize = 10;
    let (stores, sink) = (Stores::new().await, sink().await);
    let url = if protocol == "grpc" { sink.url() } else { sink.http_url() };
    let told = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
    let (gateway, ada) = both(&stores, &url, "1", &told).await;
    gateway.api.open_account("ADA", "100").await;
    for n in 0..PAYMENTS {
        let reply = gateway.api.pay_and_wait(&payment(&format!("p{n}"), "ADA", "1")).await.is(200);
        let (trace_id, _) = named_by(reply.header("traceparent"));
        // It is acknowledged, so the next one has a batch of its own.
        let payment = Trace::of(&sink, &trace_id, SPANS).await;
        payment.batch(&sink).await;
    }
    ada.stop().await;
    gateway.stop().await;
    let spans = sink.spans();
    let opened = spans.iter().filter(|span| span.name == "POST /api/v1/customers").count();
    assert_eq!((opened, spans.len()), (1, 1 + PAYMENTS * (SPANS + SPANS_OF_BATCH)), "{spans:#?}");
    let over = if protocol == "grpc" { "grpc" } else { "http" };
    assert_eq!(sink.counted("accepted_spans"), [(over, spans.len() as u64)].into());
}

cases! {
    send_nothing_but_these_spans:
    over_grpc_nothing_is_sent_but_what_was_done("grpc");
    over_http_nothing_is_sent_but_what_was_done("http/protobuf");
}

#[tokio::test]
async fn what_is_not_to_be_traced_is_not_unless_it_fails_and_then_within_bounds() {
    let (stores, sink) = (Stores::new().await, sink().await);
    let url = sink.url();
    // Nobody settles, so each partition takes one payment and no more.
    let settings = [exporting(&url, "0"), vec![("PAYSTREAM_BACKLOG_MAX", "1")]].concat();
    let gateway = Process::serve("gateway", &stores, &settings).await;
    let reply = gateway.api.post_payment(&payment("taken", "ADA", "1")).await;
    assert_eq!((reply.status, reply.header("traceparent")), (202, ""));
    let began = Instant::now();
    let mut told = 0;
    for n in 0..200 {
        let reply = gateway.api.post_payment(&payment(&format!("p{n}"), "ADA", "1")).await.is(503);
        told += usize::from(!reply.header("traceparent").is_empty());
    }
    let seconds = began.elapsed().as_secs() + 2;
    gateway.stop().await;
    let spans = sink.spans();
    assert!(!spans.is_empty() && spans.len() as u64 <= LATE_MAX * seconds, "{}", spans.len());
    assert_eq!(told, spans.len(), "an answer names a trace only if there is one");
    for span in &spans {
        assert_eq!((span.name.as_str(), span.status), (POST, StatusCode::Error));
        assert_has(
            &span.attributes,
            &json!({"http.response.status_code": 503, "error.type": "503",
                "paystream.trace.unsampled": true}),
        );
    }
    let refused =
        [("http.route", json!("/api/v1/payments")), ("http.response.status_code", json!(503))];
    let total = sink.total("http.server.request.duration", &refused);
    assert!((total - 200.0).abs() < 0.5, "metrics count everything: {total}");
}

#[tokio::test]
async fn what_is_slow_is_traced_although_it_was_not_to_be() {
    let (stores, sink) = (Stores::new().await, sink().await);
    // Everything is.
    let slow = [("PAYSTREAM_TRACE_SLOW", "1ns")];
    let (gateway, ada) = both(&stores, &sink.url(), "0", &slow).await;
    gateway.api.open_account("ADA", "100").await;
    gateway.api.pay("slow", "ADA", "1").await;
    until_posted(&stores, 1).await;
    until("both processes tell", async || {
        let spans = sink.spans();
        let told = |name| spans.iter().any(|span| span.name == name);
        told(POST) && told(PROCESS)
    })
    .await;
    ada.stop().await;
    gateway.stop().await;
    for span in sink.spans() {
        assert_has(&span.attributes, &json!({"paystream.trace.unsampled": true}));
    }
}
