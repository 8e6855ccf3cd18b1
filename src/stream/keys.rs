//! The name of every Redis key and group that is ours; `mod.rs` says what each holds. Keys
//! of one partition share a hash tag, so that they live in one slot of a cluster.

use std::sync::Arc;

use crate::domain::{CustomerId, Reference, Source, partition_of};

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

    pub(super) fn stream(&self, partition: u16) -> String {
        self.of(partition, "stream")
    }

    pub(super) fn sequence(&self, partition: u16) -> String {
        self.of(partition, "seq")
    }

    pub(super) fn lost(&self, partition: u16) -> String {
        self.of(partition, "lost")
    }

    pub(super) fn lineage(&self, partition: u16) -> String {
        self.of(partition, "lineage")
    }

    pub(super) fn backlog(&self, partition: u16) -> String {
        self.of(partition, "backlog")
    }

    pub(super) fn shares(&self, partition: u16) -> String {
        self.of(partition, "shares")
    }

    pub(super) fn owner(&self, partition: u16) -> String {
        self.of(partition, "owner")
    }

    pub(super) fn dead(&self, partition: u16) -> String {
        self.of(partition, "dead")
    }

    pub(super) fn replicated(&self, partition: u16) -> String {
        self.of(partition, "replicated")
    }

    pub(super) fn settling(&self, partition: u16) -> String {
        self.of(partition, "settling")
    }

    pub(super) fn reference(&self, partition: u16, reference: &Reference) -> String {
        [self.head(partition), "ref:", reference.as_str()].concat()
    }

    /// Like `reference`, for payments from streams of an earlier topology whose reference
    /// belongs to another payment.
    pub(super) fn beside(&self, partition: u16, reference: &Reference) -> String {
        [self.head(partition), "beside:", reference.as_str()].concat()
    }

    pub(super) fn balance(&self, customer: &CustomerId) -> String {
        [self.head(self.partition_of(customer)), "balance:", customer.as_str()].concat()
    }

    /// Of no partition: a webhook's customer may differ from body to body.
    pub(super) fn webhook(&self, source: &Source, id: &str) -> String {
        format!("{}:webhook:{}:{id}", self.prefix, source.as_str())
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
