//! The name of every Redis key and group that is ours. Keys of one partition
//! share a hash tag, so that they live in one slot of a cluster.

use std::sync::Arc;

use crate::domain::{CustomerId, Reference, partition_of};

/// Our consumer group on every stream.
pub(crate) const GROUP: &str = "ledger";

/// Names keys under one prefix for one topology. From the second generation on
/// they carry it, so that a process of an earlier topology cannot reach them.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    heads: Arc<[String]>,
    pub(super) partitions: u16,
}

impl Keys {
    pub(super) fn new(prefix: &str, partitions: u16, generation: i32) -> Self {
        let generation = match generation {
            ..=1 => String::new(),
            later => format!("g{later}"),
        };
        let head = |partition| format!("{prefix}:{{{generation}p{partition:02}}}:");
        let heads = (0..partitions).map(head).collect();
        Self { prefix: prefix.to_owned(), heads, partitions }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The payments, in order.
    pub(super) fn stream(&self, partition: u16) -> String {
        self.of(partition, "stream")
    }

    /// The last sequence that was given out, behind a word while it is closed.
    pub(super) fn sequence(&self, partition: u16) -> String {
        self.of(partition, "seq")
    }

    /// Ranges of sequences whose entries are lost.
    pub(super) fn lost(&self, partition: u16) -> String {
        self.of(partition, "lost")
    }

    /// Which servers gave out which sequences.
    pub(super) fn lineage(&self, partition: u16) -> String {
        self.of(partition, "lineage")
    }

    /// Unsettled entries when an append last counted them, and the sequence then.
    pub(super) fn backlog(&self, partition: u16) -> String {
        self.of(partition, "backlog")
    }

    /// The mirror of owner and epoch; the ledger holds the truth.
    pub(super) fn owner(&self, partition: u16) -> String {
        self.of(partition, "owner")
    }

    /// Notices of entries that became dead letters.
    pub(super) fn dead(&self, partition: u16) -> String {
        self.of(partition, "dead")
    }

    /// Exists while a batch of the partition is being settled.
    pub(super) fn settling(&self, partition: u16) -> String {
        self.of(partition, "settling")
    }

    /// What a reference was recently sent as.
    pub(super) fn reference(&self, partition: u16, reference: &Reference) -> String {
        [self.head(partition), "ref:", reference.as_str()].concat()
    }

    /// What a reference that stands for another payment was sent as from streams of
    /// an earlier topology.
    pub(super) fn beside(&self, partition: u16, reference: &Reference) -> String {
        [self.head(partition), "beside:", reference.as_str()].concat()
    }

    pub(super) fn balance(&self, customer: &CustomerId) -> String {
        [self.head(self.partition_of(customer)), "balance:", customer.as_str()].concat()
    }

    pub(super) fn partition_of(&self, customer: &CustomerId) -> u16 {
        partition_of(customer, self.partitions)
    }

    fn of(&self, partition: u16, name: &str) -> String {
        [self.head(partition), name].concat()
    }

    fn head(&self, partition: u16) -> &str {
        &self.heads[usize::from(partition)]
    }
}

#[cfg(test)]
mod tests {
    use super::Keys;

    #[test]
    fn each_generation_has_keys_of_its_own() {
        assert_eq!(Keys::new("paystream", 8, 1).stream(7), "paystream:{p07}:stream");
        assert_eq!(Keys::new("paystream", 8, 2).stream(7), "paystream:{g2p07}:stream");
    }
}
