//! Which servers of Redis take commands, and for which slots. Never asks anybody.

use std::collections::BTreeSet;

use redis::RedisError;

use super::{address::Node, server};

/// The servers that take commands, and the slots of each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) nodes: Vec<Node>,
    /// First and last slot of each range, in their order, and the place of its server.
    ranges: Vec<(u16, u16, usize)>,
}

impl Layout {
    pub(super) fn new(ranges: Vec<(u16, u16, Node)>) -> Self {
        let nodes: BTreeSet<Node> = ranges.iter().map(|(.., node)| node.clone()).collect();
        let nodes: Vec<Node> = nodes.into_iter().collect();
        let place = |(first, last, node): (u16, u16, Node)| {
            Some((first, last, nodes.iter().position(|one| *one == node)?))
        };
        let mut ranges: Vec<_> = ranges.into_iter().filter_map(place).collect();
        ranges.sort_unstable();
        Self { nodes, ranges }
    }

    pub(super) fn of_one(node: Node) -> Self {
        Self::new(vec![(0, u16::MAX, node)])
    }

    /// The place of the server that has this slot; none while nobody has it.
    pub(super) fn server_of(&self, slot: u16) -> Option<usize> {
        let at = self.ranges.partition_point(|(_, last, _)| *last < slot);
        self.ranges.get(at).filter(|(first, ..)| *first <= slot).map(|(.., place)| *place)
    }
}

/// The error where nobody says which server it is.
pub(super) fn unknown() -> RedisError {
    server::away("nobody says which server of Redis takes commands")
}

/// The error of a command whose slot no server has.
pub(super) fn uncovered() -> RedisError {
    server::away("no server of the cluster has this part of the keys")
}
