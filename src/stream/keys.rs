//! The name of every Redis key and group that is ours; `mod.rs` says what each holds. Keys
//! of one partition share a hash tag, so that they live in one slot of a cluster.

use std::sync::Arc;

use crc::{CRC_16_XMODEM, Crc};

use crate::domain::{CustomerId, Reference, Source, partition_of};

/// Our consumer group on every stream.
pub(crate) const GROUP: &str = "ledger";

/// Names keys under one prefix for one topology. From the second generation on
/// they carry it, so that a process of an earlier topology cannot reach them.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    heads: Arc<[(String, u16)]>,
    is_spread: bool,
    pub(super) partitions: u16,
}

impl Keys {
    pub(super) fn new(prefix: &str, partitions: u16, generation: i32) -> Self {
        let tag = |partition| tag(partition, generation);
        Self::tagged(prefix, partitions, false, tag)
    }

    /// The same for a cluster: tags that spread the partitions evenly over its slots, in their
    /// order, so that servers with equal ranges of slots have equally many.
    pub(super) fn spread(prefix: &str, partitions: u16, generation: i32) -> Self {
        let width = SLOTS / u32::from(partitions.max(1));
        let spread = |partition: u16| {
            let first = SLOTS * u32::from(partition) / u32::from(partitions);
            let middle = first + width * 3 / 8..=first + width * 5 / 8;
            let name = tag(partition, generation) + ".";
            let mut begun = SUM.digest();
            begun.update(name.as_bytes());
            let fits = |number: &u32| {
                let mut sum = begun.clone();
                sum.update(number.to_string().as_bytes());
                middle.contains(&(u32::from(sum.finalize()) % SLOTS))
            };
            let number = (0..).find(fits).unwrap_or(0);
            format!("{name}{number}")
        };
        Self::tagged(prefix, partitions, true, spread)
    }

    fn tagged(prefix: &str, partitions: u16, is_spread: bool, tag: impl Fn(u16) -> String) -> Self {
        let head = |partition| {
            let head = format!("{prefix}:{{{}}}:", tag(partition));
            let slot = slot_of(head.as_bytes());
            (head, slot)
        };
        let heads = (0..partitions).map(head).collect();
        Self { prefix: prefix.to_owned(), heads, is_spread, partitions }
    }

    /// The keys of another topology, at the same place.
    pub(super) fn of_topology(&self, partitions: u16, generation: i32) -> Self {
        let new = if self.is_spread { Self::spread } else { Self::new };
        new(&self.prefix, partitions, generation)
    }

    /// The slot that the keys of a partition are in.
    pub(super) fn slot(&self, partition: u16) -> u16 {
        self.heads[usize::from(partition)].1
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

    /// Of the tables of references; a table's hashes follow by number.
    pub(super) fn references(&self, partition: u16) -> String {
        self.of(partition, "refs")
    }

    /// The same for payments from streams of an earlier topology whose reference belongs to
    /// another payment.
    pub(super) fn references_beside(&self, partition: u16) -> String {
        self.of(partition, "refs-beside")
    }

    /// Where the release before remembered a reference.
    pub(super) fn old_reference(&self, partition: u16, reference: &Reference) -> String {
        [self.head(partition), "ref:", reference.as_str()].concat()
    }

    pub(super) fn old_beside(&self, partition: u16, reference: &Reference) -> String {
        [self.head(partition), "beside:", reference.as_str()].concat()
    }

    pub(super) fn balance(&self, customer: &CustomerId) -> String {
        [self.head(self.partition_of(customer)), "balance:", customer.as_str()].concat()
    }

    /// Of no partition: whether the streams were moved to another Redis.
    pub(super) fn moved(&self) -> String {
        format!("{}:moved", self.prefix)
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
        &self.heads[usize::from(partition)].0
    }
}

fn tag(partition: u16, generation: i32) -> String {
    match generation {
        ..=1 => format!("p{partition:02}"),
        later => format!("g{later}p{partition:02}"),
    }
}

/// The slots of a cluster.
pub(super) const SLOTS: u32 = 16_384;

/// The slot of a key: of its tag, if it has one.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let end = rest.iter().position(|byte| *byte == b'}')?;
        (end > 0).then(|| &rest[..end])
    });
    let slot = u32::from(SUM.checksum(tag.unwrap_or(key))) % SLOTS;
    u16::try_from(slot).unwrap_or_default()
}

/// What a cluster computes slots by.
static SUM: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_has_keys_of_its_own() {
        assert_eq!(Keys::new("paystream", 8, 1).stream(7), "paystream:{p07}:stream");
        assert_eq!(Keys::new("paystream", 8, 2).stream(7), "paystream:{g2p07}:stream");
    }

    #[test]
    fn slots_are_those_of_a_cluster() {
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"x{foo}y}"), 12_182);
        assert_eq!(slot_of(b"{}foo"), 9_500, "an empty tag is none");
    }

    #[test]
    fn partitions_are_spread_evenly_over_equal_servers() {
        for partitions in [8, 32, 256] {
            let keys = Keys::spread("paystream", partitions, 3);
            for servers in 1..=6_u16 {
                let mut counts = vec![0_u16; usize::from(servers)];
                for partition in 0..partitions {
                    let slot = u32::from(keys.slot(partition));
                    counts[(slot * u32::from(servers) / SLOTS) as usize] += 1;
                }
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "{partitions} over {servers}: {counts:?}");
            }
        }
    }
}
