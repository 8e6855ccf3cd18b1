//! Writes spans when they have ended. Sampling is decided when a trace begins, so an
//! unsampled one costs nothing; failed and slow spans are written all the same, at most 20 a
//! second, and count for nothing in figures made of spans. Never waits: spans that do not fit the
//! exporter's queue are dropped.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{self, Event, Link, SpanContext, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanProcessor};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    sampling::Share,
    words::{self, DESTINATION},
};
use crate::domain::{SpanId, StreamId, TraceContext, TraceId};

/// Failed or slow spans of unsampled traces that are written in a second.
const LATE_MAX: u32 = 20;
/// Entries whose earlier attempts are remembered.
const REMEMBERED_MAX: usize = 1024;
/// Attempts at an entry that are remembered.
const ATTEMPTS_MAX: usize = 16;
/// The share of spans that is written: of a process, or where a span has it, of spans like it.
pub(super) const SAMPLE_RATIO: &str = "paystream.trace.sample_ratio";
/// True where a span was written although the sampler had not chosen its trace. Tempo leaves it
/// out of what it counts.
const UNSAMPLED: &str = "paystream.trace.unsampled";

/// One moment on two clocks: the wall clock's for spans, the monotonic one for durations.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    pub(super) wall: SystemTime,
    steady: Instant,
}

impl Timestamp {
    #[expect(clippy::disallowed_methods, reason = "what is measured decides nothing")]
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    pub fn until(self, later: Self) -> Duration {
        later.steady.saturating_duration_since(self.steady)
    }

    pub(super) fn before(self, by: Duration) -> SystemTime {
        self.wall.checked_sub(by).unwrap_or(self.wall)
    }
}

/// The trace of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTrace {
    /// The span of a caller that is trusted; the request continues its trace.
    pub(super) parent: Option<TraceContext>,
    /// The span of any other caller, as if it were unsampled; the request has a trace of its own,
    /// with a link to it.
    pub(super) caller: Option<TraceContext>,
    /// The span of the request itself; none while no traces are exported.
    pub(super) own: Option<TraceContext>,
}

impl RequestTrace {
    pub fn trace_id(&self) -> Option<TraceId> {
        self.own.or(self.parent).map(|context| context.trace_id)
    }

    pub(super) fn caller_trace_id(&self) -> Option<TraceId> {
        self.caller.map(|context| context.trace_id)
    }

    /// The request's own span, when it is recorded.
    pub fn recorded(&self) -> Option<TraceContext> {
        self.own.filter(|own| own.sampled)
    }
}

/// How many spans like it one stands for, in figures made of spans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Weight {
    /// As the process's ratio says, if the sampler has chosen its trace; none otherwise.
    OfTrace,
    /// One of this share.
    Of(Share),
    /// None: it is written because it failed, was slow, or belongs to one that is written.
    Nothing,
}

/// The store that a span is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Store {
    Redis,
    Postgresql,
}

/// Where the stores are, for spans; nothing where one of several servers is meant.
#[derive(Clone, Debug, Default)]
pub struct StorePlaces {
    /// Host and port.
    pub redis: Option<(String, u16)>,
    pub postgresql: Option<(String, u16)>,
    /// The database of the ledger.
    pub database: Option<String>,
}

impl StorePlaces {
    fn of(&self, store: Store) -> impl Iterator<Item = KeyValue> {
        let (server, database) = match store {
            Store::Redis => (&self.redis, &None),
            Store::Postgresql => (&self.postgresql, &self.database),
        };
        let server = server.iter().flat_map(|(host, port)| {
            [
                KeyValue::new(words::SERVER, host.clone()),
                KeyValue::new(words::PORT, i64::from(*port)),
            ]
        });
        server.chain(database.iter().map(|name| KeyValue::new(words::DB_NAME, name.clone())))
    }
}

pub(super) struct Span {
    pub(super) context: TraceContext,
    pub(super) weight: Weight,
    pub(super) store: Option<Store>,
    pub(super) parent: Option<SpanId>,
    pub(super) kind: SpanKind,
    pub(super) name: Cow<'static, str>,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) attributes: Vec<KeyValue>,
    pub(super) links: Vec<TraceContext>,
    pub(super) events: Vec<(&'static str, SystemTime)>,
    pub(super) error: Option<String>,
}

impl Span {
    pub(super) fn new(
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        (context, parent): (TraceContext, Option<SpanId>),
        (start, end): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
    ) -> Self {
        Self {
            context,
            weight: Weight::OfTrace,
            store: None,
            parent,
            kind,
            name: name.into(),
            start,
            end,
            attributes,
            links: Vec::new(),
            events: Vec::new(),
            error: None,
        }
    }

    /// A span of an operation on the streams; its attributes begin with the operation's.
    pub(super) fn step(
        operation: &'static str,
        kind: SpanKind,
        place: (TraceContext, Option<SpanId>),
        took: (SystemTime, SystemTime),
        attributes: impl IntoIterator<Item = KeyValue>,
    ) -> Self {
        let attributes = words::messaging(operation).into_iter().chain(attributes).collect();
        let name = format!("{operation} {DESTINATION}");
        Self { store: Some(Store::Redis), ..Self::new(name, kind, place, took, attributes) }
    }
}

pub(super) struct Spans {
    processor: Option<BatchSpanProcessor>,
    /// Known once the stores are open.
    pub(super) places: OnceLock<StorePlaces>,
    pub(super) sampled: Share,
    pub(super) slow: Duration,
    random: Mutex<SmallRng>,
    late: Mutex<(Instant, u32)>,
    attempts: Mutex<HashMap<(u16, StreamId), Vec<TraceContext>>>,
}

impl Spans {
    pub(super) fn off() -> Self {
        Self::new(None, 0.0, Duration::MAX, 0)
    }

    /// Records `ratio` of all traces, 0 to 1.
    pub(super) fn new(
        processor: Option<BatchSpanProcessor>,
        ratio: f64,
        slow: Duration,
        seed: u64,
    ) -> Self {
        Self {
            processor,
            places: OnceLock::new(),
            sampled: Share::new(ratio),
            slow,
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            late: Mutex::new((Instant::now(), 0)),
            attempts: Mutex::default(),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.processor.is_some()
    }

    /// A `trusted` caller decides whether its request is recorded; what any other one says is only
    /// linked to, lest a stranger has everything recorded, or all in one trace.
    pub(super) fn request(&self, inbound: Option<TraceContext>, trusted: bool) -> RequestTrace {
        let unsampled = inbound.map(|inbound| TraceContext { sampled: false, ..inbound });
        let (parent, caller) = if trusted { (inbound, None) } else { (None, unsampled) };
        if !self.is_on() {
            return RequestTrace { parent, caller, own: None };
        }
        let own = match parent {
            Some(parent) => TraceContext { sampled: parent.sampled, ..self.below(&parent) },
            None => {
                let own = self.new_trace();
                TraceContext { sampled: self.sampled.has(&own.trace_id), ..own }
            }
        };
        RequestTrace { parent, caller, own: Some(own) }
    }

    /// Whether one more span of an unsampled trace may be written in this second.
    pub(super) fn allows_late(&self, now: Timestamp) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut late = lock(&self.late);
        if now.steady.saturating_duration_since(late.0) >= Duration::from_secs(1) {
            *late = (now.steady, 0);
        }
        late.1 += 1;
        late.1 <= LATE_MAX
    }

    pub(super) fn new_trace(&self) -> TraceContext {
        let trace_id = self.random(|random| non_zero(|| TraceId::new(random.random())));
        TraceContext { trace_id, span_id: Some(self.new_span()), sampled: true }
    }

    /// A span below another, in the same trace.
    pub(super) fn below(&self, parent: &TraceContext) -> TraceContext {
        let span_id = Some(self.new_span());
        TraceContext { trace_id: parent.trace_id, span_id, sampled: true }
    }

    /// A span below this one, and its parent.
    pub(super) fn place(&self, parent: &TraceContext) -> (TraceContext, Option<SpanId>) {
        (self.below(parent), parent.span_id)
    }

    fn new_span(&self) -> SpanId {
        self.random(|random| non_zero(|| SpanId::new(random.random())))
    }

    fn random<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut lock(&self.random))
    }

    pub(super) fn write(&self, span: Span) {
        let Some(processor) = &self.processor else { return };
        let mut attributes = span.attributes;
        let places = self.places.get().zip(span.store);
        attributes.extend(places.into_iter().flat_map(|(places, store)| places.of(store)));
        match span.weight {
            Weight::OfTrace if self.sampled.has(&span.context.trace_id) => {}
            Weight::Of(share) => attributes.push(KeyValue::new(SAMPLE_RATIO, share.ratio)),
            // Where it cannot be left out, as in Tempo's graph of services, it counts for itself.
            Weight::OfTrace | Weight::Nothing => attributes
                .extend([KeyValue::new(UNSAMPLED, true), KeyValue::new(SAMPLE_RATIO, 1.0)]),
        }
        let mut data = SpanData {
            span_context: linked(&span.context),
            parent_span_id: span.parent.map_or(trace::SpanId::INVALID, of_span),
            parent_span_is_remote: matches!(span.kind, SpanKind::Server | SpanKind::Consumer),
            span_kind: span.kind,
            name: span.name,
            start_time: span.start,
            end_time: span.end.max(span.start),
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: span
                .error
                .map_or(Status::Unset, |text| Status::Error { description: text.into() }),
            instrumentation_scope: InstrumentationScope::builder("paystream").build(),
        };
        data.links.links = span.links.iter().map(|link| Link::with_context(linked(link))).collect();
        let event = |(name, at): (&'static str, _)| Event::new(name, at, Vec::new(), 0);
        data.events.events = span.events.into_iter().map(event).collect();
        processor.on_end(data);
    }

    /// Spans of failed attempts at an entry, the oldest first.
    pub(super) fn attempts(&self, entry: (u16, StreamId)) -> Vec<TraceContext> {
        lock(&self.attempts).get(&entry).cloned().unwrap_or_default()
    }

    pub(super) fn remember(&self, entry: (u16, StreamId), span: TraceContext) {
        let mut attempts = lock(&self.attempts);
        if attempts.len() >= REMEMBERED_MAX {
            attempts.clear();
        }
        let attempts = attempts.entry(entry).or_default();
        // The first one names the trace.
        if attempts.len() >= ATTEMPTS_MAX {
            attempts.remove(1);
        }
        attempts.push(span);
    }

    pub(super) fn forget(&self, entry: (u16, StreamId)) {
        lock(&self.attempts).remove(&entry);
    }

    pub(super) fn shut_down(&self, patience: Duration) {
        if let Some(processor) = &self.processor {
            // Undelivered spans are lost; nothing depends on them.
            let _ = processor.shutdown_with_timeout(patience);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws again in the rare case of zero, which is no valid id.
fn non_zero<T>(mut draw: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(drawn) = draw() {
            return drawn;
        }
    }
}

fn of_span(id: SpanId) -> trace::SpanId {
    trace::SpanId::from_bytes(*id.as_bytes())
}

fn linked(context: &TraceContext) -> SpanContext {
    SpanContext::new(
        trace::TraceId::from_bytes(*context.trace_id.as_bytes()),
        context.span_id.map_or(trace::SpanId::INVALID, of_span),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    )
}
