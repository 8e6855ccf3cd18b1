//! From what operators see to what is measured. Pure: what a store did not say
//! stays missing.

use std::time::Duration;

use crate::{
    operations::{CustomerCount, Overview, PartitionLook},
    telemetry::{CustomersSeen, LedgerSeen, StreamSeen, StreamsSeen},
};

/// What Redis said, if it answered.
pub(super) fn streams(overview: &Overview) -> Option<StreamsSeen> {
    let figures = &overview.figures;
    let stream = |look: &PartitionLook| {
        Some(StreamSeen {
            partition: look.partition,
            length: look.depth?,
            lag: look.lag,
            pending: look.pending?,
            // Nothing that waits is known to be nothing.
            waiting: Some(Duration::from_secs(look.oldest_waiting_seconds.unwrap_or(0))),
        })
    };
    Some(StreamsSeen {
        partitions: overview.partitions.iter().map(stream).collect::<Option<_>>()?,
        oldest_kept: figures.oldest_kept_seconds.map(Duration::from_secs),
        memory_used: figures.redis_memory_used?,
        memory_limit: figures.redis_memory_limit?,
    })
}

/// What PostgreSQL said, if it answered.
pub(super) fn ledger(overview: &Overview) -> Option<LedgerSeen> {
    let figures = &overview.figures;
    let epoch = |look: &PartitionLook| Some((look.partition, look.epoch?));
    Some(LedgerSeen {
        epochs: overview.partitions.iter().filter_map(epoch).collect(),
        workers: figures.workers_alive?,
        partitions: overview.partitions.len(),
        ownerless: figures.partitions_unserved?,
        dead_letters: figures.dead_letters?,
        suspense: figures.suspense?,
        conflicts: figures.conflicts?,
        parked: figures.parked?,
        losses: figures.losses?,
    })
}

/// How many customers were counted.
pub(super) fn customers(count: CustomerCount) -> CustomersSeen {
    CustomersSeen { all: count.all, completed: count.completed }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::operations::Figures;

    fn overview() -> Overview {
        let look = PartitionLook {
            partition: 3,
            epoch: Some(8),
            depth: Some(9),
            lag: Some(2),
            pending: Some(1),
            oldest_waiting_seconds: Some(4),
            ..PartitionLook::default()
        };
        let figures = Figures {
            dead_letters: Some(1),
            suspense: Some(2),
            conflicts: Some(3),
            parked: Some(4),
            losses: Some(5),
            workers_alive: Some(6),
            partitions_unserved: Some(1),
            oldest_kept_seconds: Some(7),
            redis_memory_used: Some(8),
            redis_memory_limit: Some(0),
            ..Figures::default()
        };
        Overview {
            as_of: DateTime::UNIX_EPOCH,
            redis_available: true,
            ledger_available: true,
            redis_trouble: None,
            figures,
            workers: Vec::new(),
            partitions: vec![look],
        }
    }

    #[test]
    fn what_was_said_is_what_is_measured() {
        let stream = StreamSeen {
            partition: 3,
            length: 9,
            lag: Some(2),
            pending: 1,
            waiting: Some(Duration::from_secs(4)),
        };
        let seen = streams(&overview()).unwrap();
        assert_eq!(seen.partitions, [stream]);
        assert_eq!(seen.oldest_kept, Some(Duration::from_secs(7)));
        assert_eq!((seen.memory_used, seen.memory_limit), (8, 0));
        let wanted = LedgerSeen {
            epochs: vec![(3, 8)],
            workers: 6,
            partitions: 1,
            ownerless: 1,
            dead_letters: 1,
            suspense: 2,
            conflicts: 3,
            parked: 4,
            losses: 5,
        };
        assert_eq!(ledger(&overview()), Some(wanted));
    }

    #[test]
    fn nothing_stands_for_what_a_store_did_not_say() {
        let mut silent = overview();
        silent.partitions[0] = PartitionLook { partition: 3, epoch: Some(8), ..Default::default() };
        silent.figures.redis_memory_used = None;
        assert_eq!(streams(&silent), None);
        assert!(ledger(&silent).is_some());

        let mut silent = overview();
        silent.partitions[0].epoch = None;
        silent.figures = Figures {
            redis_memory_used: Some(8),
            redis_memory_limit: Some(0),
            ..Figures::default()
        };
        assert!(streams(&silent).is_some());
        assert_eq!(ledger(&silent), None);

        // No entry waits, and the lag is not known.
        let mut damaged = overview();
        damaged.partitions[0].lag = None;
        damaged.partitions[0].oldest_waiting_seconds = None;
        let seen = streams(&damaged).unwrap().partitions[0];
        assert_eq!((seen.lag, seen.waiting), (None, Some(Duration::ZERO)));
    }
}
