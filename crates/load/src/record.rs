//! What is remembered while payments are sent: one byte per arrival, and the figures of the
//! report. Never decides whether the run went well.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::Arrival;

/// Latencies are kept up to one hour, in microseconds, to three digits.
const LATENCY_MAX_MICROS: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

pub(super) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, SIGNIFICANT_DIGITS)
        .context("could not make a histogram")
}

/// Counts `latency` `count` times.
pub(super) fn count(histogram: &mut Histogram<u64>, latency: Duration, count: u64) {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_MICROS);
    histogram.saturating_record_n(micros.clamp(1, LATENCY_MAX_MICROS), count);
}

/// What is known of a reference. Later knowledge only ever raises it: once accepted, a
/// payment stays accepted, whatever a repeat of it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Fate {
    NotSent,
    /// The service said that it did not take it.
    Refused,
    /// No answer, or one (5xx) that leaves open whether it was taken.
    Unknown,
    /// The service said that it is durable.
    Accepted,
}

impl Fate {
    /// What an answer of this status says of a payment.
    pub(super) fn of(status: u16) -> Self {
        match status {
            200 | 202 => Self::Accepted,
            408 | 500..=599 => Self::Unknown,
            _ => Self::Refused,
        }
    }
}

/// When one request was due, was sent, and was answered or given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) due: Instant,
    pub(super) sent: Instant,
    pub(super) ended: Instant,
}

/// Counts of payments, as they are reported.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Counts {
    /// Payments in requests that were sent.
    pub(super) sent: u64,
    /// Answers by status; within a batch each payment counts.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Payments in requests that were not answered, by reason.
    pub(super) unanswered: BTreeMap<String, u64>,
    pub(super) repeats_sent: u64,
    pub(super) invalid_sent: u64,
    pub(super) invalid_refused: u64,
    pub(super) invalid_accepted: u64,
    /// Attempts to connect that failed.
    pub(super) connect_failures: u64,
}

#[derive(Debug)]
pub(super) struct RunFigures {
    pub(super) counts: Counts,
    /// What is known of each arrival's reference.
    pub(super) fates: Vec<Fate>,
    /// From due to answered, of accepted payments.
    pub(super) accept_latency: Histogram<u64>,
    /// From due to sent, of all.
    pub(super) lateness: Histogram<u64>,
    /// How long connections waited for answers, together.
    pub(super) busy: Duration,
    pub(super) first_sent: Option<Instant>,
    pub(super) last_sent: Option<Instant>,
}

impl RunFigures {
    pub(super) fn new(arrivals: u64) -> anyhow::Result<Self> {
        let arrivals = usize::try_from(arrivals).context("too many payments to remember")?;
        let mut fates = Vec::new();
        fates.try_reserve_exact(arrivals).context("not enough memory to remember the payments")?;
        fates.resize(arrivals, Fate::NotSent);
        Ok(Self {
            counts: Counts::default(),
            fates,
            accept_latency: latencies()?,
            lateness: latencies()?,
            busy: Duration::ZERO,
            first_sent: None,
            last_sent: None,
        })
    }

    /// Answers that said a payment was taken, now or before.
    pub(super) fn accepted(&self) -> u64 {
        [200, 202].iter().filter_map(|status| self.counts.statuses.get(status)).sum()
    }

    /// Payments that were refused unexpectedly, or not answered.
    pub(super) fn errors(&self) -> u64 {
        let answered: u64 = self.counts.statuses.values().sum();
        let unanswered: u64 = self.counts.unanswered.values().sum();
        unanswered + answered - self.accepted() - self.counts.invalid_refused
    }

    /// How many references have this fate.
    pub(super) fn count(&self, wanted: Fate) -> u64 {
        self.fates.iter().filter(|fate| **fate == wanted).count() as u64
    }

    /// Counts one request of `payments`, answered or not.
    pub(super) fn request(&mut self, times: Times, payments: u64) {
        self.counts.sent += payments;
        self.busy += times.ended - times.sent;
        self.first_sent = Some(self.first_sent.map_or(times.sent, |first| first.min(times.sent)));
        self.last_sent = self.last_sent.max(Some(times.sent));
        count(&mut self.lateness, times.sent.saturating_duration_since(times.due), payments);
    }

    /// Counts one payment with the status that it was answered, or why it was not.
    pub(super) fn payment(
        &mut self,
        times: Times,
        (index, arrival): (u64, Arrival),
        answer: Result<u16, &str>,
    ) {
        let fate = answer.map_or(Fate::Unknown, Fate::of);
        let counts = &mut self.counts;
        match answer {
            Ok(status) => *counts.statuses.entry(status).or_default() += 1,
            Err(reason) => *counts.unanswered.entry(reason.to_owned()).or_default() += 1,
        }
        if fate == Fate::Accepted {
            count(&mut self.accept_latency, times.ended.saturating_duration_since(times.due), 1);
        }
        match arrival {
            Arrival::New => self.raise(index, fate),
            Arrival::Repeat(earlier) => {
                counts.repeats_sent += 1;
                self.raise(earlier, fate);
            }
            Arrival::Invalid(_) => {
                counts.invalid_sent += 1;
                counts.invalid_refused += u64::from(answer == Ok(422));
                counts.invalid_accepted += u64::from(fate == Fate::Accepted);
            }
        }
    }

    /// Raises what is known of arrival `index`.
    pub(super) fn raise(&mut self, index: u64, fate: Fate) {
        let known = usize::try_from(index).ok().and_then(|index| self.fates.get_mut(index));
        if let Some(known) = known {
            *known = (*known).max(fate);
        }
    }
}
