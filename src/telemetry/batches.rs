//! The spans of whole batches: taking the entries, the transaction, the acknowledgement. A batch is a
//! trace of its own, with links to its payments, which link back. It is sampled by itself, and
//! written as well when one of its payments is. Never decides anything about a payment.

use opentelemetry::{KeyValue, trace::SpanKind};

use super::{
    Signals,
    spans::{Span, Store, Timestamp, Weight},
    words::{self, ACK, LEDGER, RECEIVE},
    worker::Tried,
};
use crate::domain::TraceContext;

/// Links of one span; payments beyond them link to their batch all the same.
const LINKS_MAX: usize = 128;
const BATCH: &str = "settle batch";
const TABLE: &str = "processed_transactions";

impl Signals {
    pub(super) fn trace(&self, tried: &Tried<'_>, ended: Timestamp) {
        let spans = &self.0.spans;
        let batch = spans.new_trace();
        let payments = self.trace_payments(tried, batch, ended);
        // By its own id: payments of one request share a trace, so theirs cannot say how many
        // batches one that is written stands for.
        let share = spans.sampled.of_batches(tried.deliveries.len());
        let weight = match share.has(&batch.trace_id) {
            true => Weight::Of(share),
            false if payments.is_empty() => return,
            false => Weight::Nothing,
        };
        let write = |span: Span| spans.write(Span { weight, ..span });
        let (asked, taken) = (tried.steps.asked.wall, tried.steps.taken.wall);
        let size = number(tried.deliveries.len());
        let group = KeyValue::new(words::GROUP, LEDGER);
        let told = vec![group.clone(), KeyValue::new(words::BATCH_COUNT, size)];
        write(Span {
            links: payments.into_iter().take(LINKS_MAX).collect(),
            error: tried.failure.map(|failure| failure.text.clone()),
            ..Span::new(BATCH, SpanKind::Internal, (batch, None), (asked, ended.wall), told)
        });
        let traces = tried.deliveries.iter().filter_map(|delivery| delivery.trace);
        let received = [
            KeyValue::new(words::OPERATION_TYPE, RECEIVE),
            group.clone(),
            KeyValue::new(words::BATCH_COUNT, size),
        ];
        let place = spans.place(&batch);
        write(Span {
            links: traces.filter(TraceContext::is_recorded).take(LINKS_MAX).collect(),
            ..Span::step(RECEIVE, SpanKind::Client, place, (asked, taken), received)
        });
        let Some((begun, committed)) = tried.steps.committed else { return };
        let mut inserted = words::ledger("INSERT").to_vec();
        inserted.push(KeyValue::new(words::DB_TABLE, TABLE));
        inserted.push(KeyValue::new(words::DB_BATCH, size));
        let (place, took) = (spans.place(&batch), (begun.wall, committed.wall));
        let insert = Span::new(format!("INSERT {TABLE}"), SpanKind::Client, place, took, inserted);
        write(Span { store: Some(Store::Postgresql), ..insert });
        let Some(acknowledged) = tried.steps.acknowledged else { return };
        let (place, took) = (spans.place(&batch), (committed.wall, acknowledged.wall));
        let settled = [KeyValue::new(words::OPERATION_TYPE, "settle"), group];
        write(Span::step(ACK, SpanKind::Client, place, took, settled));
    }
}

fn number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
