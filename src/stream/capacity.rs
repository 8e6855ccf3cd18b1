//! How many payments a second the memory of Redis suffices for, and how many come. Never changes
//! anything.

use std::time::Duration;

use redis::Pipeline;

use super::{Error, Streams, references::Tables};

/// What a reference takes for each second of the dedupe window: 50 bytes, for a window and a
/// quarter on average.
const REFERENCE_BYTES: u64 = 64;
/// Payments are counted over this time at least.
const COUNTED: u64 = 30_000;

/// Payments a second whose references fit into three quarters of a memory. The rest is for
/// entries: above it, settled ones go early.
pub fn payments_held(memory: u64, dedupe_window: Duration) -> u64 {
    let window = u64::try_from(dedupe_window.as_millis()).unwrap_or(u64::MAX).max(1);
    let held =
        u128::from(memory) * 3 / 4 * 1_000 / (u128::from(REFERENCE_BYTES) * u128::from(window));
    u64::try_from(held).unwrap_or(u64::MAX)
}

impl Streams {
    /// Payments a second on all partitions together, on each since its newest table of references
    /// began: in the last half of the dedupe window.
    pub async fn payments_a_second(&self) -> Result<u64, Error> {
        let mut connection = self.shared().await?;
        let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let mut pipeline = Pipeline::with_capacity(2 * usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            pipeline.cmd("GET").arg(self.keys.references(partition));
            pipeline.cmd("GET").arg(self.keys.sequence(partition));
        }
        let replies: Vec<Option<String>> = pipeline.query_async(&mut connection).await?;
        let mut in_1000_seconds = 0;
        for reply in replies.chunks_exact(2) {
            let [Some(tables), Some(head)] = reply else { continue };
            // A closed partition takes nothing.
            let Ok(head) = head.parse() else { continue };
            let (began, first) = Tables::parse(tables).beginning();
            let since = (seconds * 1_000).saturating_sub(began).max(COUNTED);
            let count = u64::try_from(i64::saturating_sub(head, first)).unwrap_or_default();
            in_1000_seconds += count.saturating_mul(1_000_000) / since;
        }
        Ok(in_1000_seconds / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_gibibytes_hold_27_962_payments_a_second_for_15_minutes() {
        let held = |memory, seconds| payments_held(memory, Duration::from_secs(seconds));
        assert_eq!(held(2 << 30, 900), 27_962);
        assert_eq!(held(2 << 30, 1_800), 13_981);
        assert_eq!(held(0, 900), 0);
        assert_eq!(held(u64::MAX, 0), u64::MAX);
    }
}
