//! What is remembered while payments are sent: one byte per arrival, and the figures of the
//! report. Never decides whether the run went well.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;

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
    NotSent = 0,
    /// The service said that it did not take it.
    Refused = 1,
    /// No answer, or one (5xx) that leaves open whether it was taken.
    Unknown = 2,
    /// The service said that it is durable.
    Accepted = 3,
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

    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::NotSent,
            1 => Self::Refused,
            2 => Self::Unknown,
            _ => Self::Accepted,
        }
    }
}

/// The fate of every reference, one byte each.
#[derive(Debug)]
pub(super) struct Fates(Vec<AtomicU8>);

impl Fates {
    pub(super) fn new(arrivals: u64) -> anyhow::Result<Self> {
        let arrivals = usize::try_from(arrivals).context("too many payments to remember")?;
        let mut fates = Vec::new();
        fates.try_reserve_exact(arrivals).context("not enough memory to remember the payments")?;
        fates.resize_with(arrivals, AtomicU8::default);
        Ok(Self(fates))
    }

    /// Raises what is known of arrival `index`.
    pub(super) fn raise(&self, index: u64, fate: Fate) {
        let byte = usize::try_from(index).ok().and_then(|index| self.0.get(index));
        if let Some(byte) = byte {
            byte.fetch_max(fate as u8, Ordering::Relaxed);
        }
    }

    /// What is known of each arrival, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Fate)> + '_ {
        (0..)
            .zip(&self.0)
            .map(|(index, byte)| (index, Fate::from_byte(byte.load(Ordering::Relaxed))))
    }

    /// How many references have this fate.
    pub(super) fn count(&self, wanted: Fate) -> u64 {
        self.iter().filter(|(_, fate)| *fate == wanted).count() as u64
    }
}

/// When one request was due, was sent, and was answered or given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) due: Instant,
    pub(super) sent: Instant,
    pub(super) ended: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// Payments in requests that were sent.
    pub(super) sent: u64,
    /// Answers by status; within a batch each payment counts.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Payments in requests that were not answered, by reason.
    pub(super) unanswered: BTreeMap<String, u64>,
    pub(super) invalid_sent: u64,
    pub(super) invalid_refused: u64,
    pub(super) invalid_accepted: u64,
    pub(super) repeats_sent: u64,
    /// From due to answered, of accepted payments.
    pub(super) accept_latency: Histogram<u64>,
    /// From due to sent, of all.
    pub(super) lateness: Histogram<u64>,
    /// How long connections waited for answers, together.
    pub(super) busy: Duration,
    pub(super) first_sent: Option<Instant>,
    pub(super) last_sent: Option<Instant>,
    /// Attempts to connect that failed.
    pub(super) connect_failures: u64,
}

impl Figures {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            sent: 0,
            statuses: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            invalid_sent: 0,
            invalid_refused: 0,
            invalid_accepted: 0,
            repeats_sent: 0,
            accept_latency: latencies()?,
            lateness: latencies()?,
            busy: Duration::ZERO,
            first_sent: None,
            last_sent: None,
            connect_failures: 0,
        })
    }

    /// Answers that said a payment was taken, now or before.
    pub(super) fn accepted(&self) -> u64 {
        [200, 202].iter().filter_map(|status| self.statuses.get(status)).sum()
    }

    /// Payments that were refused unexpectedly, or not answered.
    pub(super) fn errors(&self) -> u64 {
        let answered: u64 = self.statuses.values().sum();
        let unanswered: u64 = self.unanswered.values().sum();
        unanswered + answered - self.accepted() - self.invalid_refused
    }

    /// Counts one request of `payments`, answered or not.
    pub(super) fn request(&mut self, times: Times, payments: u64) {
        self.sent += payments;
        self.busy += times.ended - times.sent;
        self.first_sent = Some(self.first_sent.map_or(times.sent, |first| first.min(times.sent)));
        self.last_sent = self.last_sent.max(Some(times.sent));
        count(&mut self.lateness, times.sent.saturating_duration_since(times.due), payments);
    }

    /// Counts what one payment was answered.
    pub(super) fn answer(&mut self, times: Times, arrival: Arrival, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
        let is_accepted = Fate::of(status) == Fate::Accepted;
        if is_accepted {
            count(&mut self.accept_latency, times.ended.saturating_duration_since(times.due), 1);
        }
        match arrival {
            Arrival::New => {}
            Arrival::Repeat(_) => self.repeats_sent += 1,
            Arrival::Invalid(_) => {
                self.invalid_sent += 1;
                self.invalid_refused += u64::from(status == 422);
                self.invalid_accepted += u64::from(is_accepted);
            }
        }
    }

    /// Counts one payment that was not answered.
    pub(super) fn unanswered(&mut self, arrival: Arrival, reason: &str) {
        match self.unanswered.get_mut(reason) {
            Some(payments) => *payments += 1,
            None => drop(self.unanswered.insert(reason.to_owned(), 1)),
        }
        match arrival {
            Arrival::New => {}
            Arrival::Repeat(_) => self.repeats_sent += 1,
            Arrival::Invalid(_) => self.invalid_sent += 1,
        }
    }
}

/// What all connections write to.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) fates: Fates,
    figures: Mutex<Figures>,
}

impl Record {
    pub(super) fn new(arrivals: u64) -> anyhow::Result<Self> {
        Ok(Self { fates: Fates::new(arrivals)?, figures: Mutex::new(Figures::new()?) })
    }

    /// The figures, for a moment. Held only to add to them or to read them.
    pub(super) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one payment was answered, in figures and fate.
    pub(super) fn answer(
        &self,
        figures: &mut Figures,
        times: Times,
        index: u64,
        (arrival, status): (Arrival, u16),
    ) {
        figures.answer(times, arrival, status);
        self.raise(index, arrival, Fate::of(status));
    }

    /// That one payment was not answered.
    pub(super) fn unanswered(
        &self,
        figures: &mut Figures,
        index: u64,
        arrival: Arrival,
        reason: &str,
    ) {
        figures.unanswered(arrival, reason);
        self.raise(index, arrival, Fate::Unknown);
    }

    fn raise(&self, index: u64, arrival: Arrival, fate: Fate) {
        match arrival {
            Arrival::New => self.fates.raise(index, fate),
            Arrival::Repeat(earlier) => self.fates.raise(earlier, fate),
            Arrival::Invalid(_) => {}
        }
    }
}
