//! Proves that telemetry is never a condition of service: whatever becomes of
//! what is sent, payments are taken and applied, and a stop ends in time. It is
//! said once when nothing is delivered, and once when it is again; log lines of
//! a request name its trace.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::time::Instant;

use crate::{
    otlp::{
        Manner, Sink,
        received::{Attributes, Span},
    },
    prelude::*,
    traces::{PROCESS, SPANS_OF_BATCH},
};

/// Said when it begins.
const UNDELIVERED: &str = "telemetry export failed; payments are not affected";
/// Said when it ends.
const DELIVERED: &str = "telemetry export works again";
/// How long a stop may take.
const GRACE: Duration = Duration::from_secs(20);

/// Settings of a process that sends its telemetry there, and soon. Nothing is
/// slow, however busy this machine is.
pub fn exporting<'a>(url: &'a str, ratio: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("PAYSTREAM_TRACE_RATIO", ratio),
        ("PAYSTREAM_TRACE_SLOW", "1h"),
    ]
}

/// A receiver of telemetry, on free ports.
pub async fn sink() -> Sink {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    in_background(Sink::listen(any, any)).await.expect("free ports")
}

/// The spans of one trace.
pub struct Trace(pub Vec<Span>);

impl Trace {
    /// Waits until the sink has all of so many.
    pub async fn of(sink: &Sink, trace_id: &str, spans: usize) -> Self {
        eventually(&format!("trace {trace_id} has {spans} spans"), async || {
            let trace = sink.trace(trace_id);
            (trace.len() >= spans).then_some(Self(trace))
        })
        .await
    }

    /// The batch that a payment was settled in, which its attempt links to.
    pub async fn batch(&self, sink: &Sink) -> Self {
        let attempt = self.named(PROCESS).pop().expect("a worker tried it");
        Self::of(sink, &attempt.links[0].trace_id, SPANS_OF_BATCH).await
    }

    /// Those of this name, in the order in which they began.
    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    /// The only one of this name.
    #[track_caller]
    pub fn only(&self, name: &str) -> &Span {
        let spans = self.named(name);
        assert_eq!(spans.len(), 1, "{name}: {:#?}", self.0);
        spans[0]
    }
}

/// Fails unless all of these are among the attributes.
#[track_caller]
pub fn assert_has(attributes: &Attributes, wanted: &Value) {
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(attributes.get(name), Some(value), "{name} in {attributes:?}");
    }
}

/// The trace and the span that an answer names.
#[track_caller]
pub fn named_by(traceparent: &str) -> (String, String) {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [version, trace_id, span_id, flags] = parts[..] else { panic!("{traceparent}") };
    assert_eq!((version, flags), ("00", "01"), "{traceparent}");
    (trace_id.to_owned(), span_id.to_owned())
}

/// A gateway and a worker that send there.
pub async fn both(
    stores: &Stores,
    url: &str,
    ratio: &str,
    more: &[(&str, &str)],
) -> (Process, Process) {
    let settings = [&exporting(url, ratio)[..], more].concat();
    let gateway = Process::serve("gateway", stores, &settings).await;
    (gateway, worker(stores, "ada", &settings).await)
}

/// SIGTERM; it ends well and in time.
async fn stop_in_time(process: Process) {
    let asked = Instant::now();
    process.stop().await;
    let took = asked.elapsed();
    assert!(took < GRACE, "it took {took:?}");
}

/// Pays while telemetry goes there, and stops.
async fn pay_whatever_happens(url: &str, meanwhile: impl AsyncFn(&Process, &Process)) {
    let stores = Stores::new().await;
    let grace = [("PAYSTREAM_SHUTDOWN_GRACE", "20s")];
    let (gateway, worker) = both(&stores, url, "1", &grace).await;
    gateway.api.open_account("ADA", "1000").await;
    for n in 0..20 {
        gateway.api.pay_and_wait(&payment(&format!("p{n}"), "ADA", "1")).await.is(200);
    }
    meanwhile(&gateway, &worker).await;
    gateway.api.pay("last", "ADA", "1").await;
    gateway.api.settles_at("ADA", "21.00").await;
    stores.audit().await;
    tokio::join!(stop_in_time(gateway), stop_in_time(worker));
}

/// Waits until both have said this of both signals. Pays meanwhile, so that there
/// is something to deliver.
async fn until_said(message: &str, processes: [&Process; 2]) {
    let [gateway, _] = processes;
    let number = AtomicU32::new(0);
    until(&format!("traces and metrics: {message}"), async || {
        let number = number.fetch_add(1, Ordering::Relaxed);
        gateway.api.pay(&format!("{}{number}", message.len()), "BOB", "1").await;
        let said = |process: &Process| process.events(message).len() == 2;
        processes.into_iter().all(said)
    })
    .await;
}

/// Once for each signal, however often it was tried.
#[track_caller]
fn assert_said_once(message: &str, level: &str, processes: [&Process; 2]) {
    for process in processes {
        let events = process.events(message);
        let mut signals: Vec<&str> =
            events.iter().map(|event| event["signal"].as_str().unwrap()).collect();
        signals.sort_unstable();
        assert_eq!(signals, ["metrics", "traces"], "{}", process.log());
        assert!(events.iter().all(|event| event["level"] == level), "{events:?}");
    }
}

#[tokio::test]
async fn a_process_that_cannot_serve_tells_that_it_has_begun() {
    let (stores, sink) = (Stores::new().await, sink().await);
    let nowhere = [("PAYSTREAM_REDIS_URL", "redis://127.0.0.1:1/")];
    let url = sink.url();
    let settings = [exporting(&url, "1"), nowhere.to_vec()].concat();
    let _running = serve("worker", &stores, &settings).spawn().unwrap();
    let role = [("paystream.role", json!("worker"))];
    until("it tells", async || sink.total("process.uptime", &role) > 0.0).await;
}

#[tokio::test]
async fn payments_go_on_while_nobody_listens() {
    let any = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = any.local_addr().unwrap();
    drop(any);
    pay_whatever_happens(&format!("http://{free}"), async |gateway, worker| {
        until_said(UNDELIVERED, [gateway, worker]).await;
        // Somebody begins to.
        let http = SocketAddr::from(([127, 0, 0, 1], 0));
        let sink = in_background(Sink::listen(free, http)).await.unwrap();
        until_said(DELIVERED, [gateway, worker]).await;
        assert!(!sink.series().is_empty());
        assert_said_once(UNDELIVERED, "WARN", [gateway, worker]);
        assert_said_once(DELIVERED, "INFO", [gateway, worker]);
    })
    .await;
}

#[tokio::test]
async fn payments_go_on_while_telemetry_is_refused() {
    let sink = sink().await;
    sink.answer(Manner::Refusing);
    pay_whatever_happens(&sink.url(), async |gateway, worker| {
        until_said(UNDELIVERED, [gateway, worker]).await;
        let refused = sink.requests();
        until("it is tried again", async || sink.requests() > refused + 20).await;
        assert_said_once(UNDELIVERED, "WARN", [gateway, worker]);
        sink.answer(Manner::Prompt);
        until_said(DELIVERED, [gateway, worker]).await;
        assert_said_once(UNDELIVERED, "WARN", [gateway, worker]);
        assert_said_once(DELIVERED, "INFO", [gateway, worker]);
    })
    .await;
}

#[tokio::test]
async fn payments_go_on_while_telemetry_hangs() {
    let sink = sink().await;
    sink.answer(Manner::Hanging);
    pay_whatever_happens(&sink.url(), async |_, _| ()).await;
    assert!(sink.spans().is_empty() && sink.series().is_empty());
    assert!(sink.requests() > 0, "it was tried");
}

#[tokio::test]
async fn payments_go_on_while_telemetry_is_slow() {
    let sink = sink().await;
    sink.answer(Manner::Slow(Duration::from_secs(1)));
    pay_whatever_happens(&sink.url(), async |_, _| {
        until("some of it comes", async || !sink.spans().is_empty()).await;
    })
    .await;
}

#[tokio::test]
async fn a_line_that_is_logged_during_a_request_names_its_trace() {
    let stores = Stores::new().await;
    let sink = sink().await;
    let url = sink.url();
    let gateway = Process::serve("gateway", &stores, &exporting(&url, "1")).await;
    gateway.api.pay("before", "ADA", "1").await;
    assert_ne!(stores.delete_keys("*:stream").await, 0);
    let reply = gateway.api.post_payment(&payment("after", "ADA", "1")).await.is(503);
    let (trace_id, span_id) = named_by(reply.header("traceparent"));
    let message = "state is lost in Redis; payments of this partition are refused";
    gateway.until_logged(message).await;
    assert_eq!(gateway.events(message)[0]["trace_id"], trace_id);
    assert!(gateway.events("listening")[0]["trace_id"].is_null(), "only lines of a request");
    let trace = Trace::of(&sink, &trace_id, 1).await;
    assert_eq!(trace.only("POST /api/v1/payments").span_id, span_id);
}

#[tokio::test]
async fn how_much_is_logged_changes_while_a_process_runs() {
    const LOG: &str = "/api/v1/admin/log";
    let stores = Stores::new().await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    let put = async |level: Value| {
        let request = gateway.api.request(Method::PUT, LOG);
        send(request.json(&json!({ "level": level }))).await
    };
    // Lines about requests are there only while everything is logged.
    let answered = || gateway.events("answered").len();
    gateway.api.get("/nowhere").await;
    assert_eq!(answered(), 0);
    for level in ["a=b=c", "loud", "info,loud", "nowhere=debug", ""] {
        let refused = put(json!(level)).await;
        assert_eq!(refused.status, 422, "{level}: {}", refused.text);
        assert_eq!(refused.json()["errors"][0]["pointer"], "/level");
    }
    assert_eq!(gateway.api.get(LOG).await.json(), json!({"level": "info", "configured": "info"}));
    let detailed = put(json!("info,paystream=debug")).await;
    assert_eq!(detailed.json()["level"], "info,paystream=debug", "{}", detailed.text);
    gateway.api.get("/nowhere").await;
    gateway.until_logged("answered").await;
    let back = put(Value::Null).await;
    assert_eq!(back.json()["level"], "info", "{}", back.text);
    let before = answered();
    gateway.api.get("/nowhere").await;
    assert_eq!(answered(), before);
    for (level, times) in [("info,paystream=debug", 1), ("info", 2)] {
        gateway.signal("USR1").await;
        let message = "the log level was changed by a signal";
        until("the signal is heeded", async || gateway.events(message).len() == times).await;
        assert_eq!(gateway.events(message)[times - 1]["level"], level);
        assert_eq!(gateway.events(message)[times - 1]["actor"], "signal");
        assert_eq!(gateway.api.get(LOG).await.json()["level"], level);
    }
}
