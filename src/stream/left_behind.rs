//! Entries that wait in the streams of an earlier topology, which nobody takes: a
//! replica that was promoted lacked the end of the change, and a gateway went on.
//! Never decides what becomes of them.

use redis::Pipeline;

use super::{Error, GROUP, Keys, Streams, replies, standing, wire};
use crate::domain::{Delivery, StreamId};

/// Entries of one partition that are looked at at once.
const ENTRIES_MAX: usize = 1_000;

/// An entry that our group has not acknowledged.
#[derive(Clone, Debug)]
pub struct LeftBehind {
    /// The stream's key.
    pub stream: String,
    /// Its entry id.
    pub stream_id: StreamId,
    /// The payment, or why it cannot be read.
    pub delivery: Result<Delivery, String>,
    /// The last entry that the group was handed, if it is there.
    handed: Option<StreamId>,
}

impl Streams {
    /// What waits in the streams of another generation, as far as they are there:
    /// the first 1,000 entries of each, in the order of partitions and entries.
    pub async fn left_behind(
        &self,
        generation: i32,
        partitions: u16,
    ) -> Result<Vec<LeftBehind>, Error> {
        let keys = Keys::new(self.keys.prefix(), partitions, generation);
        let mut connection = self.connect("left-behind").await?;
        let mut found = Vec::new();
        for (partition, first, handed) in standing::left(&keys, &mut connection).await? {
            let stream = keys.stream(partition);
            let mut command = redis::cmd("XRANGE");
            command.arg(&stream).arg(first.to_string()).arg("+").arg("COUNT").arg(ENTRIES_MAX);
            let entries = replies::entries(command.query_async(&mut connection).await?)?;
            for (stream_id, fields) in entries {
                let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
                let fields = fields.unwrap_or_default().into_iter();
                let fields: Vec<_> = fields.map(|(name, value)| (name, text(value))).collect();
                let delivery = wire::read_fields(partition, stream_id, &fields);
                found.push(LeftBehind { stream: stream.clone(), stream_id, delivery, handed });
            }
        }
        Ok(found)
    }

    /// Makes our group pass these entries, of which all that come before are passed
    /// or among them.
    pub async fn pass(&self, entries: &[LeftBehind]) -> Result<(), Error> {
        let mut connection = self.connect("left-behind").await?;
        let mut pipeline = Pipeline::with_capacity(2 * entries.len());
        for LeftBehind { stream, stream_id, handed, .. } in entries {
            let id = stream_id.to_string();
            match handed {
                Some(handed) if stream_id <= handed => {
                    pipeline.cmd("XACK").arg(stream).arg(GROUP).arg(id);
                }
                Some(_) => {
                    pipeline.cmd("XGROUP").arg("SETID").arg(stream).arg(GROUP).arg(id);
                }
                // Nobody of ours reads it.
                None => {}
            }
        }
        Ok(pipeline.exec_async(&mut connection).await?)
    }
}
