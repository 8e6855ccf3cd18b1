//! The number of payments in a batch: halved after a batch that took too long, doubled again
//! afterwards, shared by the partitions with entries. Decides nothing else.

pub(super) struct BatchSize {
    now: u32,
    max: u32,
}

impl BatchSize {
    pub(super) fn new(max: u32) -> Self {
        Self { now: max, max }
    }

    pub(super) fn was_in_time(&mut self) {
        self.now = (2 * self.now).min(self.max);
    }

    pub(super) fn was_late(&mut self) {
        self.now = (self.now / 2).max(1);
    }

    pub(super) fn page(&self) -> u32 {
        self.now
    }

    pub(super) fn is_half_full(&self, entries: usize) -> bool {
        2 * entries >= usize::try_from(self.now).unwrap_or(usize::MAX)
    }

    /// New entries of each of so many partitions; at least one.
    pub(super) fn share(&self, partitions: usize) -> u32 {
        (self.now / u32::try_from(partitions).unwrap_or(1)).max(1)
    }
}
