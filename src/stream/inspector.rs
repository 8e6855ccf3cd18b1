//! Pending entries, for operators. Never claims and never acknowledges; reads a page at a time,
//! so that payments hardly wait.

use std::time::Duration;

use redis::{Pipeline, RedisResult, Value};

use super::{Error, GROUP, Keys, replies::Entry, shared::SharedConnection, wire};
use crate::domain::{DeadEntry, Delivery, StreamId};

/// Pending entries in one query, during which Redis does nothing else.
const PAGE: usize = 1_000;

#[derive(Clone, Debug)]
pub struct Pending {
    pub partition: u16,
    pub id: StreamId,
    pub consumer: String,
    pub idle: Duration,
    pub deliveries: u64,
}

#[derive(Clone, Debug, Default)]
pub struct PendingCount {
    pub pending: u64,
    pub consumers: Vec<(String, u64)>,
}

#[derive(Clone, Debug)]
pub enum EntryBody {
    Delivery(Box<Delivery>),
    Unreadable(Box<DeadEntry>),
    Deleted,
}

#[derive(Clone)]
pub struct Inspector {
    pub(super) connection: SharedConnection,
    pub(super) keys: Keys,
}

impl Inspector {
    pub async fn counts(&self) -> Result<Vec<PendingCount>, Error> {
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            pipeline.cmd("XPENDING").arg(self.keys.stream(partition)).arg(GROUP);
        }
        // A partition without pending entries has no consumers.
        type PendingReply = (u64, Value, Value, Vec<(String, u64)>);
        let rows: Vec<PendingReply> = pipeline.query_async(&mut self.connection.clone()).await?;
        let count = |(pending, _, _, consumers): PendingReply| PendingCount { pending, consumers };
        Ok(rows.into_iter().map(count).collect())
    }

    /// Entries of our group on one partition that come after `after`, in order,
    /// at most 1,000: all of them, or those of one consumer.
    pub async fn pending(
        &self,
        partition: u16,
        after: Option<StreamId>,
        consumer: Option<&str>,
    ) -> Result<Vec<Pending>, Error> {
        let start = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        self.range(partition, &start, "+", consumer).await
    }

    pub async fn one(&self, partition: u16, id: StreamId) -> Result<Option<Pending>, Error> {
        let id = id.to_string();
        Ok(self.range(partition, &id, &id, None).await?.pop())
    }

    async fn range(
        &self,
        partition: u16,
        start: &str,
        end: &str,
        consumer: Option<&str>,
    ) -> Result<Vec<Pending>, Error> {
        let mut command = redis::cmd("XPENDING");
        command.arg(self.keys.stream(partition)).arg(GROUP).arg(start).arg(end).arg(PAGE);
        command.arg(consumer);
        let rows: Vec<(StreamId, String, u64, u64)> =
            command.query_async(&mut self.connection.clone()).await?;
        let pending = |(id, consumer, idle, deliveries)| {
            let idle = Duration::from_millis(idle);
            Pending { partition, id, consumer, idle, deliveries }
        };
        Ok(rows.into_iter().map(pending).collect())
    }

    pub async fn bodies(&self, entries: &[(u16, StreamId)]) -> Result<Vec<EntryBody>, Error> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(entries.len());
        for (partition, id) in entries {
            pipeline.cmd("XRANGE").arg(self.keys.stream(*partition)).arg(id).arg(id);
        }
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<Vec<Entry>>> =
            pipeline.query_async(&mut self.connection.clone()).await?;
        let body = |((partition, id), reply): (&(u16, StreamId), RedisResult<Vec<Entry>>)| {
            let Some(Entry { fields: Some(fields), .. }) = reply?.pop() else {
                return Ok(EntryBody::Deleted);
            };
            let place = (*partition, wire::SEQUENCE_MAX);
            Ok(match wire::decode(&self.keys, place, *id, fields) {
                Ok(delivery) => EntryBody::Delivery(Box::new(delivery)),
                Err(unreadable) => EntryBody::Unreadable(unreadable),
            })
        };
        entries.iter().zip(replies).map(body).collect()
    }
}
