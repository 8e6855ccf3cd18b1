//! The state of a partition in Redis, and its recovery: closing it, opening it again, and
//! finding a group that is ahead of the ledger. Never decides that something is lost: that
//! takes the ledger's cursor.

use redis::{Pipeline, RedisResult, Value};

use super::{
    Consumer, Error, GROUP, GroupPosition, History,
    lineage::HOLE,
    positions,
    replies::{self, Entry},
    scripts, wire,
};
use crate::domain::{Delivery, Fence, StreamId};

#[derive(Clone, Debug, Default)]
pub struct PartitionState {
    /// None when our group or the stream is missing.
    pub position: Option<GroupPosition>,
    /// The last sequence that was given out; none when a gateway found the counter to be lost.
    pub sequence: Option<i64>,
    pub history: History,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The last sequence that its counter says was given out.
    pub counted: i64,
    /// The sequence of the last entry that may have been given it, 0 without one.
    pub last_sequence: i64,
    /// The last id that the stream gave out, 0-0 without a stream.
    pub last_id: StreamId,
}

/// How a closed partition is opened again.
#[derive(Clone, Copy, Debug)]
pub struct Reopening<'a> {
    /// The ledger's cursor: a stream or a group that is missing begins behind it.
    pub cursor: StreamId,
    /// A group that is there goes back to the cursor.
    pub sets_back: bool,
    /// Sequences go on after this one.
    pub sequence: i64,
    /// The last sequence that is kept, where any may be lost: gateways compare
    /// again what they know.
    pub kept: Option<i64>,
    /// First and last sequences that are lost; their references are accepted again.
    pub lost: &'a [(i64, i64)],
}

/// Entries in the stream after the last one that the ledger knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    /// Entries from this sequence on; nothing when the first has none that can
    /// be read.
    From(Option<i64>),
}

impl Consumer {
    pub async fn states(&mut self, fences: &[Fence]) -> Result<Vec<PartitionState>, Error> {
        let mut pipeline = Pipeline::with_capacity(1 + 2 * fences.len());
        scripts::POSITIONS.load_in(&mut pipeline);
        for fence in fences {
            let stream = self.keys.stream(fence.partition);
            pipeline.add_command(positions::command(stream, Some(GROUP)));
            pipeline.cmd("MGET").arg(self.keys.sequence(fence.partition));
            pipeline.arg(self.keys.lineage(fence.partition));
            pipeline.arg(self.keys.lost(fence.partition));
        }
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut self.reader).await?;
        let mut replies = replies.into_iter().skip(1);
        let mut states = Vec::with_capacity(fences.len());
        for fence in fences {
            let (Some(position), Some(values)) = (replies.next(), replies.next()) else {
                return Err(Error::Shape("a group's position"));
            };
            let (counter, lineage, lost): (Option<String>, Option<String>, Option<String>) =
                redis::from_redis_value(values?)?;
            let position = match positions::our_position(&self.keys, fence.partition, position) {
                Err(Error::StateLost(_)) => None,
                position => Some(position?),
            };
            let history = History::read(lineage.as_deref(), lost.as_deref());
            self.has_jumped(fence.partition, &history);
            states.push(PartitionState {
                position,
                sequence: counted(counter.as_deref()),
                history,
            });
        }
        Ok(states)
    }

    /// Its counter was at the end of each jump, though nobody may have seen it there.
    fn has_jumped(&mut self, partition: u16, history: &History) {
        let ends = history.holes.iter().map(|(_, first)| first - 1);
        let seen = self.counted.entry(partition).or_default();
        *seen = ends.fold(*seen, i64::max);
    }

    /// The highest sequence that an entry of a partition may have: what its counter
    /// has given out, closed or not. Where that is lost, or has gone back, no more was
    /// given out unseen than sequences jump.
    pub(super) fn given_out(&mut self, partition: u16, counter: Option<&str>) -> i64 {
        let text = counter.unwrap_or_default();
        let (gate, number) = text.split_once(':').unwrap_or(("", text));
        let number = number.parse::<i64>().ok();
        let seen = self.counted.entry(partition).or_default();
        let vouches = gate != "lost" && number.is_some_and(|number| number >= *seen);
        *seen = number.map_or(*seen, |number| number.max(*seen));
        if vouches { *seen } else { seen.saturating_add(HOLE) }
    }

    /// Closes a partition whose state is lost: nothing is appended to it until
    /// [`Consumer::reopen`]. Says what is left of it.
    pub async fn close(&mut self, fence: Fence) -> Result<Remains, Error> {
        let keys = [
            self.keys.stream(fence.partition),
            self.keys.owner(fence.partition),
            self.keys.sequence(fence.partition),
        ];
        let mut command = scripts::CLOSE.on(&keys);
        let seen = self.counted.get(&fence.partition).copied().unwrap_or_default();
        command.arg(&self.worker).arg(fence.epoch).arg(seen).arg(HOLE);
        let (counted, last_sequence, last_id) = command.query_async(&mut self.reader).await?;
        Ok(Remains { counted, last_sequence, last_id })
    }

    pub async fn reopen(
        &mut self,
        fence: Fence,
        remains: Remains,
        reopening: Reopening<'_>,
    ) -> Result<(), Error> {
        let Reopening { cursor, sets_back, sequence, kept, lost } = reopening;
        let raises = remains.last_id < cursor;
        let server = self.reader.server(self.keys.slot(fence.partition)).await?;
        let keys = [
            self.keys.stream(fence.partition),
            self.keys.owner(fence.partition),
            self.keys.sequence(fence.partition),
            self.keys.lost(fence.partition),
            self.keys.lineage(fence.partition),
        ];
        let mut command = scripts::REOPEN.on(&keys);
        command.arg(GROUP).arg(&self.worker).arg(fence.epoch).arg(cursor);
        command.arg(if sets_back {
            "back"
        } else if raises {
            "raise"
        } else {
            ""
        });
        command.arg(sequence).arg(&server.identity);
        command.arg(kept.map_or_else(String::new, |kept| kept.to_string()));
        for (first, last) in lost {
            command.arg(first).arg(last);
        }
        Ok(command.exec_async(&mut self.reader).await?)
    }

    /// Whether our group, which was handed entries up to `last_id`, has
    /// acknowledged one after `known`, which comes before; then, what is still
    /// there after `known`.
    pub async fn passed(
        &mut self,
        fence: Fence,
        known: StreamId,
        last_id: StreamId,
    ) -> Result<Option<Kept>, Error> {
        let mut command = scripts::PASSED.on(&[self.keys.stream(fence.partition)]);
        command.arg(GROUP).arg(known).arg(last_id);
        let (passed, first): (i64, String) = command.query_async(&mut self.reader).await?;
        Ok((passed != 0).then(|| match &*first {
            "" => Kept::Nothing,
            sequence => Kept::From(sequence.parse().ok()),
        }))
    }

    /// The sequence of the first entry that the stream keeps after this one, and its
    /// payment, as far as they can be read.
    pub async fn first_after(
        &mut self,
        partition: u16,
        id: StreamId,
    ) -> Result<Option<(i64, Option<Delivery>)>, Error> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.stream(partition)).arg(format!("({id}")).arg("+");
        let mut first: Vec<Entry> =
            command.arg("COUNT").arg(1).query_async(&mut self.reader).await?;
        let Some(Entry { id, fields: Some(fields) }) = first.pop() else { return Ok(None) };
        let Some(sequence) = wire::sequence_of(&fields) else { return Ok(None) };
        let delivery = wire::decode(&self.keys, (partition, sequence), id, fields).ok();
        Ok(Some((sequence, delivery)))
    }

    /// Whether the stream keeps an entry between these two.
    pub async fn has_between(
        &self,
        partition: u16,
        after: StreamId,
        before: StreamId,
    ) -> Result<bool, Error> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.stream(partition)).arg(format!("({after}")).arg(format!("({before}"));
        command.arg("COUNT").arg(1);
        let entries: Vec<Value> = command.query_async(&mut self.reader.clone()).await?;
        Ok(!entries.is_empty())
    }

    /// The sequence of the last entry up to this one, if it has one.
    pub async fn sequence_up_to(
        &mut self,
        partition: u16,
        id: StreamId,
    ) -> Result<Option<i64>, Error> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.keys.stream(partition)).arg(id).arg("-").arg("COUNT").arg(1);
        let last: Vec<Entry> = command.query_async(&mut self.reader).await?;
        Ok(replies::last_sequence(&last))
    }

    /// Lets the streams of these partitions give out no id below the one beside
    /// them, nor that: a server before this one, whose clock was ahead, gave it out.
    pub async fn raise_ids(&mut self, reached: &[(u16, StreamId)]) -> Result<(), Error> {
        if reached.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::with_capacity(reached.len());
        for (partition, id) in reached {
            let mut command = scripts::RAISE_IDS.on(&[self.keys.stream(*partition)]);
            command.arg(id);
            pipeline.add_command(command);
        }
        Ok(pipeline.exec_async(&mut self.reader).await?)
    }

    /// The epoch of each partition in Redis.
    pub async fn epochs(&mut self, fences: &[Fence]) -> Result<Vec<i64>, Error> {
        let mut pipeline = Pipeline::with_capacity(fences.len());
        for fence in fences {
            pipeline.cmd("HGET").arg(self.keys.owner(fence.partition)).arg("epoch");
        }
        let epochs: Vec<Option<i64>> = pipeline.query_async(&mut self.reader).await?;
        Ok(epochs.into_iter().map(Option::unwrap_or_default).collect())
    }
}

/// A counter: a number, or one behind the reason for which it is closed. One
/// that is closed because it is lost counts nothing.
fn counted(counter: Option<&str>) -> Option<i64> {
    let Some(text) = counter else { return Some(0) };
    let (reason, number) = text.split_once(':').unwrap_or(("", text));
    number.parse().ok().filter(|_| reason != "lost")
}
