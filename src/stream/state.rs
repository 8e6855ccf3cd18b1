//! Where a partition stands in Redis, and how it is closed and opened again
//! when its state is lost. Never decides that it is lost: the ledger knows how
//! far the partition has come.

use redis::{Pipeline, RedisResult, Value};

use super::{Consumer, Error, GROUP, History, Position, lineage::HOLE, scripts, standing};
use crate::domain::{Fence, StreamId};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// Where our group stands; nothing when it, or the stream, is gone.
    pub position: Option<Position>,
    /// The last sequence that was given out; nothing when its state was found
    /// to be lost.
    pub sequence: Option<i64>,
    /// Takeovers by replicas, and what they lost.
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

/// How a partition goes on that was closed.
#[derive(Clone, Copy, Debug)]
pub struct Reopening {
    /// The ledger's cursor: a stream or a group that is missing begins behind it.
    pub cursor: StreamId,
    /// A group that is there goes back to the cursor.
    pub sets_back: bool,
    /// Sequences go on after this one.
    pub sequence: i64,
    /// The last sequence that is kept, where any may be lost: gateways compare
    /// again what they know.
    pub kept: Option<i64>,
    /// First and last sequence that are lost; their references are forgotten.
    pub lost: Option<(i64, i64)>,
}

impl Consumer {
    /// Where each claimed partition stands.
    pub async fn states(&mut self, fences: &[Fence]) -> Result<Vec<PartitionState>, Error> {
        let mut pipeline = Pipeline::with_capacity(1 + 2 * fences.len());
        scripts::STANDING.load_in(&mut pipeline);
        for fence in fences {
            let stream = self.keys.stream(fence.partition);
            pipeline.add_command(standing::command(stream, Some(GROUP)));
            pipeline.cmd("MGET").arg(self.keys.sequence(fence.partition));
            pipeline.arg(self.keys.lineage(fence.partition));
            pipeline.arg(self.keys.lost(fence.partition));
        }
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut self.reader).await?;
        let mut replies = replies.into_iter().skip(1);
        let mut states = Vec::with_capacity(fences.len());
        for fence in fences {
            let (Some(standing), Some(values)) = (replies.next(), replies.next()) else {
                return Err(Error::Shape("standing"));
            };
            let (counter, lineage, lost): (Option<String>, Option<String>, Option<String>) =
                redis::from_redis_value(values?)?;
            let position = match standing::our_position(&self.keys, fence.partition, standing) {
                Err(Error::StateLost(_)) => None,
                position => Some(position?),
            };
            let history = History::read(lineage.as_deref(), lost.as_deref());
            states.push(PartitionState {
                position,
                sequence: counted(counter.as_deref()),
                history,
            });
        }
        Ok(states)
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
        reopening: Reopening,
    ) -> Result<(), Error> {
        let Reopening { cursor, sets_back, sequence, kept, lost } = reopening;
        let raises = remains.last_id < cursor;
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
        command.arg(sequence).arg(&self.server.identity);
        command.arg(kept.map_or_else(String::new, |kept| kept.to_string()));
        if let Some((first, last)) = lost {
            command.arg(first).arg(last);
        }
        Ok(command.exec_async(&mut self.reader).await?)
    }
}

/// A counter: a number, or one behind the reason for which it is closed. One
/// that is closed because it is lost counts nothing.
fn counted(counter: Option<&str>) -> Option<i64> {
    let Some(text) = counter else { return Some(0) };
    let (reason, number) = text.split_once(':').unwrap_or(("", text));
    number.parse().ok().filter(|_| reason != "lost")
}
