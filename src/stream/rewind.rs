//! How a group that is ahead of the ledger is found and set back. Never decides
//! how far the ledger has come.

use redis::{Pipeline, Value};

use super::{
    Consumer, Error, GROUP,
    replies::{self, Entry},
    scripts, wire,
};
use crate::domain::{Delivery, Fence, StreamId};

/// What is kept of a partition after the last entry that the ledger knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// No entry.
    Nothing,
    /// Entries from this sequence on; nothing when the first has none that can
    /// be read.
    From(Option<i64>),
}

impl Consumer {
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

    /// The epoch of each claimed partition as Redis was last told.
    pub async fn epochs(&mut self, fences: &[Fence]) -> Result<Vec<i64>, Error> {
        let mut pipeline = Pipeline::with_capacity(fences.len());
        for fence in fences {
            pipeline.cmd("HGET").arg(self.keys.owner(fence.partition)).arg("epoch");
        }
        let epochs: Vec<Option<i64>> = pipeline.query_async(&mut self.reader).await?;
        Ok(epochs.into_iter().map(Option::unwrap_or_default).collect())
    }
}
