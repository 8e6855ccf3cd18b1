//! Which traces are chosen to be recorded. A trace's id decides, so that every process with the
//! same ratio agrees without being told. Never draws by chance, and never writes a span.

use crate::domain::TraceId;

/// The lower bits of a trace id, which W3C Trace Context wants to be random.
const RANDOM_BITS: u32 = 56;

/// A share of all traces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    /// From 0 to 1.
    pub(super) ratio: f64,
    /// Traces are in the share whose random bits are this or more, as samplers of W3C's level 2
    /// keep them.
    threshold: u64,
}

impl Share {
    #[expect(
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a ratio is no money, and is from 0 to 1"
    )]
    pub(super) fn new(ratio: f64) -> Self {
        let ratio = ratio.clamp(0.0, 1.0);
        let all = 1_u64 << RANDOM_BITS;
        Self { ratio, threshold: all - (ratio * all as f64) as u64 }
    }

    /// The share of batches that have at least one payment of this share, where each payment has
    /// a trace of its own.
    #[expect(clippy::float_arithmetic, reason = "a ratio is no money")]
    pub(super) fn of_batches(self, payments: usize) -> Self {
        let payments = i32::try_from(payments).unwrap_or(i32::MAX);
        Self::new(1.0 - (1.0 - self.ratio).powi(payments))
    }

    pub(super) fn has(self, trace_id: &TraceId) -> bool {
        let id = u128::from_be_bytes(*trace_id.as_bytes());
        id & ((1 << RANDOM_BITS) - 1) >= u128::from(self.threshold)
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    fn id(bits: u128) -> TraceId {
        TraceId::new(((1 << 127) | bits).to_be_bytes()).unwrap()
    }

    #[test]
    fn all_none_or_a_share_of_traces_are_chosen() {
        let last = (1 << RANDOM_BITS) - 1;
        assert!(Share::new(1.0).has(&id(0)) && Share::new(7.0).has(&id(0)));
        assert!(!Share::new(0.0).has(&id(last)) && !Share::new(-1.0).has(&id(last)));
        let half = Share::new(0.5);
        assert!(!half.has(&id(last / 2)) && half.has(&id(last / 2 + 1)));
        assert!(!half.has(&id(last + 1)), "bits above the random ones do not count");
        let mut random = SmallRng::seed_from_u64(7);
        let tenth = Share::new(0.1);
        let chosen = (0..10_000).filter(|_| tenth.has(&id(random.random::<u128>() >> 1))).count();
        assert!((900..1_100).contains(&chosen), "{chosen} of 10,000 by seed 7");
    }

    #[test]
    fn a_batch_is_as_likely_as_any_of_its_payments() {
        let of = |ratio, payments| Share::new(ratio).of_batches(payments).ratio;
        let near = |left: f64, right: f64| (left - right).abs() < 1e-9;
        assert!(near(of(0.1, 1), 0.1) && near(of(0.1, 2), 0.19));
        assert!(near(of(0.01, 100), 0.633_967_658_726_770_6));
        assert!(near(of(1.0, 3), 1.0) && near(of(0.0, 3), 0.0) && near(of(0.5, 0), 0.0));
    }
}
