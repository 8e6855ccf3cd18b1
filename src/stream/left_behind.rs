//! Entries left in the streams of an earlier topology, which no worker takes: a promoted
//! replica lacked the end of the change, and a gateway went on appending. Never decides what
//! becomes of them.

use std::collections::BTreeMap;

use redis::{Pipeline, Value};

use super::{Error, GROUP, Keys, Producer, Streams, lines::Lines, positions, replies::Entry, wire};
use crate::domain::{Delivery, StreamId};

/// Entries read of one partition.
const ENTRIES_MAX: usize = 1_000;

#[derive(Clone, Debug)]
pub struct LeftBehind {
    pub stream: String,
    pub stream_id: StreamId,
    /// The payment, or why it cannot be read. None for an entry that was deleted after it was
    /// delivered.
    pub delivery: Option<Result<Delivery, String>>,
    /// Whether it was not delivered yet.
    is_ahead: bool,
}

pub struct Past {
    keys: Keys,
    connection: Lines,
}

impl Streams {
    /// The streams of other topologies, by generation and number of partitions, as far
    /// as they are there; over the same connections.
    pub async fn past(&self, topologies: &[(i32, u16)]) -> Result<Vec<Past>, Error> {
        if topologies.is_empty() {
            return Ok(Vec::new());
        }
        let connection = self.connect("left-behind").await?;
        let past = topologies.iter().map(|(generation, partitions)| {
            let keys = self.keys.of_topology(*partitions, *generation);
            Past { keys, connection: connection.clone() }
        });
        Ok(past.collect())
    }
}

impl Producer {
    /// One that also appends what has the reference of another payment, for the
    /// ledger to decide. It recognises only what it has appended itself.
    pub fn beside(&self) -> Self {
        let mut beside = self.clone();
        beside.references = self.references.beside();
        beside
    }
}

impl Past {
    /// The first 1,000 unacknowledged entries of each stream, by partition and id; all entries
    /// count where our group is missing.
    pub async fn waiting(&mut self) -> Result<Vec<LeftBehind>, Error> {
        let mut found = Vec::new();
        let positions = positions::on_each(&self.keys, &mut self.connection, Some(GROUP)).await?;
        for (partition, position) in (0..).zip(positions) {
            let ours = match position {
                // Removed, with all that it had.
                Err(Error::StateLost(_)) => continue,
                position => position?.pop(),
            };
            if ours.as_ref().is_some_and(|ours| ours.oldest_waiting.is_none()) {
                continue;
            }
            let handed = ours.map(|ours| ours.last_id);
            let stream = self.keys.stream(partition);
            let mut entries = self.entries(&stream, handed.unwrap_or_default()).await?;
            if handed.is_some() {
                self.add_pending(&stream, &mut entries).await?;
            }
            for (stream_id, fields) in entries.into_iter().take(ENTRIES_MAX) {
                let delivery = fields.map(|fields| {
                    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
                    let fields = fields.into_iter().map(|(name, value)| (name, text(value)));
                    wire::read_fields(partition, stream_id, &fields.collect::<Vec<_>>())
                });
                let is_ahead = handed.is_none_or(|handed| stream_id > handed);
                found.push(LeftBehind { stream: stream.clone(), stream_id, delivery, is_ahead });
            }
        }
        Ok(found)
    }

    async fn entries(
        &mut self,
        stream: &str,
        after: StreamId,
    ) -> Result<BTreeMap<StreamId, Option<wire::Fields>>, Error> {
        let mut command = redis::cmd("XRANGE");
        command.arg(stream).arg(format!("({after}")).arg("+").arg("COUNT").arg(ENTRIES_MAX);
        let entries: Vec<Entry> = command.query_async(&mut self.connection).await?;
        Ok(entries.into_iter().map(|entry| (entry.id, entry.fields)).collect())
    }

    /// Adds the first entries that our group was handed and has not acknowledged.
    async fn add_pending(
        &mut self,
        stream: &str,
        entries: &mut BTreeMap<StreamId, Option<wire::Fields>>,
    ) -> Result<(), Error> {
        let mut command = redis::cmd("XPENDING");
        command.arg(stream).arg(GROUP).arg("-").arg("+").arg(ENTRIES_MAX);
        let pending: Vec<(StreamId, Value, Value, Value)> =
            command.query_async(&mut self.connection).await?;
        let mut pipeline = Pipeline::with_capacity(pending.len());
        for (id, ..) in pending {
            entries.entry(id).or_insert(None);
            pipeline.cmd("XRANGE").arg(stream).arg(id).arg(id);
        }
        if !pipeline.is_empty() {
            let there: Vec<Vec<Entry>> = pipeline.query_async(&mut self.connection).await?;
            entries.extend(there.into_iter().flatten().map(|entry| (entry.id, entry.fields)));
        }
        Ok(())
    }

    /// Moves our group past this entry, after all earlier ones. Creates the group where it is
    /// missing.
    pub async fn pass(&mut self, entry: &LeftBehind) -> Result<(), Error> {
        let LeftBehind { stream, is_ahead, .. } = entry;
        let id = entry.stream_id;
        let mut acknowledge = redis::cmd("XACK");
        acknowledge.arg(stream).arg(GROUP).arg(id).exec_async(&mut self.connection).await?;
        if !is_ahead {
            return Ok(());
        }
        let set = async |step: &str, connection: &mut Lines| {
            let mut command = redis::cmd("XGROUP");
            command.arg(step).arg(stream).arg(GROUP).arg(id).exec_async(connection).await
        };
        match set("SETID", &mut self.connection).await {
            Err(error) if error.code() == Some("NOGROUP") => {
                Ok(set("CREATE", &mut self.connection).await?)
            }
            done => Ok(done?),
        }
    }
}
