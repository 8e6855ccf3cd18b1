//! Finds payments that are in the stream and not yet in the ledger. Never
//! changes anything.
//!
//! A reference is remembered for its window; what waits for longer is looked
//! for in the streams themselves.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::{Pipeline, Value};

use super::{
    Error, Keys, Place, Streams, replies,
    shared::{Purpose, Shared},
    standing, wire,
};
use crate::domain::{Delivery, PaymentStatus, Reference, StreamId};

/// Entries read at once while looking through what waits.
const PAGE: u32 = 1_000;
/// Keys asked for in one pipeline.
const KEYS_AT_ONCE: usize = 4_096;
/// How far the clocks of gateways and Redis may be apart.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);

/// What a reference was sent as.
#[derive(Clone, Debug)]
pub struct Seen {
    /// With this status,
    pub status: PaymentStatus,
    /// here.
    pub place: Place,
    /// The entry, unless it was trimmed.
    pub delivery: Option<Delivery>,
}

/// Looks payments up in the streams.
#[derive(Clone)]
pub struct Finder {
    connection: Shared,
    keys: Keys,
    dedupe_window: Duration,
}

impl Finder {
    pub(super) async fn connect(streams: &Streams, dedupe_window: Duration) -> Result<Self, Error> {
        let connection = streams.connect_shared(Purpose::Other).await?;
        Ok(Self { connection, keys: streams.keys.clone(), dedupe_window })
    }

    /// What is remembered of `reference`, in the order it came.
    ///
    /// # Errors
    /// When Redis cannot be reached or answers in an unknown shape.
    pub async fn recent(&self, reference: &Reference) -> Result<Vec<Seen>, Error> {
        let seen = self.recent_of(std::slice::from_ref(reference)).await?;
        Ok(seen.into_iter().flatten().collect())
    }

    /// The same of many, one list for each. Whose they are is not known, so that
    /// each partition is asked; one command asks it for many of them.
    ///
    /// # Errors
    /// As [`Finder::recent`].
    pub async fn recent_of(&self, references: &[Reference]) -> Result<Vec<Vec<Seen>>, Error> {
        let at_once = (KEYS_AT_ONCE / usize::from(self.keys.partitions.max(1))).max(1);
        let mut seen = Vec::with_capacity(references.len());
        for references in references.chunks(at_once) {
            seen.extend(self.recent_page(references).await?);
        }
        Ok(seen)
    }

    async fn recent_page(&self, references: &[Reference]) -> Result<Vec<Vec<Seen>>, Error> {
        let mut connection = self.connection.clone();
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            let keys = references.iter().map(|one| self.keys.reference(partition, one));
            pipeline.cmd("MGET").arg(keys.collect::<Vec<_>>());
        }
        let remembered: Vec<Vec<Option<String>>> = pipeline.query_async(&mut connection).await?;
        let mut found = Vec::new();
        for (partition, remembered) in (0..self.keys.partitions).zip(remembered) {
            for (index, lines) in remembered.iter().enumerate() {
                for line in lines.iter().flat_map(|lines| lines.lines()) {
                    let (status, place) = read_line(line, partition)?;
                    found.push((index, Seen { status, place, delivery: None }));
                }
            }
        }
        let mut seen: Vec<Vec<Seen>> = references.iter().map(|_| Vec::new()).collect();
        for (index, one) in self.with_entries(found).await? {
            if let Some(seen) = seen.get_mut(index) {
                seen.push(one);
            }
        }
        Ok(seen)
    }

    /// The same with their entries, as far as those are in the streams.
    async fn with_entries(
        &self,
        mut found: Vec<(usize, Seen)>,
    ) -> Result<Vec<(usize, Seen)>, Error> {
        if found.is_empty() {
            return Ok(found);
        }
        let mut pipeline = Pipeline::with_capacity(found.len());
        for (_, seen) in &found {
            let id = seen.place.stream_id.to_string();
            pipeline.cmd("XRANGE").arg(self.keys.stream(seen.place.partition)).arg(&id).arg(&id);
        }
        let replies: Vec<Value> = pipeline.query_async(&mut self.connection.clone()).await?;
        for ((_, seen), reply) in found.iter_mut().zip(replies) {
            let entry = self.read(seen.place.partition, reply)?.into_iter().next();
            seen.delivery = entry.and_then(|(_, delivery)| delivery);
        }
        Ok(found)
    }

    /// Looks for `reference` among what has waited for longer than references
    /// are remembered, as of `now`.
    ///
    /// # Errors
    /// As [`Finder::recent`].
    pub async fn long_waiting(
        &self,
        reference: &Reference,
        now: DateTime<Utc>,
    ) -> Result<Option<Seen>, Error> {
        let age = self.dedupe_window.saturating_sub(CLOCKS_APART_MAX);
        let age = chrono::Duration::from_std(age).unwrap_or(chrono::Duration::MAX);
        let end = u64::try_from((now - age).timestamp_millis()).unwrap_or(0);
        for standing in standing::ours(&self.keys, &mut self.connection.clone()).await? {
            let (partition, mut start) = (standing.partition, standing.floor);
            // An id and the end of the millisecond that is `end`.
            while start.milliseconds <= end {
                let page = self.range(partition, &start.to_string(), &end.to_string()).await?;
                let Some((last, _)) = page.last() else { break };
                start = StreamId { milliseconds: last.milliseconds, number: last.number + 1 };
                let deliveries = page.into_iter().filter_map(|(_, delivery)| delivery);
                let found = deliveries.into_iter().find(|d| d.payment.reference == *reference);
                if let Some(delivery) = found {
                    let Delivery { sequence, stream_id, .. } = delivery;
                    let place = Place { partition, sequence, stream_id };
                    let status = delivery.payment.status;
                    return Ok(Some(Seen { status, place, delivery: Some(delivery) }));
                }
            }
        }
        Ok(None)
    }

    async fn range(
        &self,
        partition: u16,
        start: &str,
        end: &str,
    ) -> Result<Vec<(StreamId, Option<Delivery>)>, Error> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.stream(partition)).arg(start).arg(end).arg("COUNT").arg(PAGE);
        self.read(partition, command.query_async(&mut self.connection.clone()).await?)
    }

    fn read(
        &self,
        partition: u16,
        reply: Value,
    ) -> Result<Vec<(StreamId, Option<Delivery>)>, Error> {
        let entries = replies::entries(reply)?.into_iter();
        let read = |(id, fields): (StreamId, Option<wire::Fields>)| {
            (id, fields.and_then(|f| wire::decode(&self.keys, partition, id, f).ok()))
        };
        Ok(entries.map(read).collect())
    }
}

/// One line of a ref key: `status digest sequence stream-id`.
fn read_line(line: &str, partition: u16) -> Result<(PaymentStatus, Place), Error> {
    const SHAPE: Error = Error::Shape("a ref key");
    let cells: Vec<&str> = line.split(' ').collect();
    let [status, _digest, sequence, id] = cells.as_slice() else { return Err(SHAPE) };
    let place = Place {
        partition,
        sequence: sequence.parse().map_err(|_| SHAPE)?,
        stream_id: id.parse().map_err(|_| SHAPE)?,
    };
    Ok((PaymentStatus::parse(status).map_err(|_| SHAPE)?, place))
}
