//! How fast the ledger has settled payments over the last minute, sampled.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// The first and the last sample of a minute, and what is between.
const SAMPLES_MAX: usize = 13;

#[derive(Default)]
pub(super) struct Rate(Mutex<VecDeque<(Instant, i64)>>);

impl Rate {
    pub(super) fn sample(&self, now: Instant, total: i64) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back((now, total));
        while samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }

    /// The mean rate in thousandths per second between the oldest sample and
    /// `now`; zero before there is one.
    pub(super) fn thousandths_per_second(&self, now: Instant, total: i64) -> i64 {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, before)) = samples.front() else { return 0 };
        let millis = i64::try_from(now.duration_since(*since).as_millis()).unwrap_or(i64::MAX);
        (total - before).saturating_mul(1_000_000) / millis.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_over_the_last_minute_only() {
        let start = Instant::now();
        let rate = Rate::default();
        assert_eq!(rate.thousandths_per_second(start, 5), 0);
        for sample in 0_i64..100 {
            let at = start + SAMPLE_EVERY * u32::try_from(sample).unwrap();
            // Nothing for the first 80 samples, then 100 a second.
            rate.sample(at, (sample - 80).max(0) * 500);
        }
        let now = start + SAMPLE_EVERY * 99;
        assert_eq!(rate.thousandths_per_second(now, 19 * 500), 100_000);
    }
}
