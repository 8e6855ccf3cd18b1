//! Looks at what is pending, for operators. Never claims, never acknowledges,
//! and asks for no more than a page at a time, so that payments hardly wait.

use std::time::Duration;

use redis::{Pipeline, RedisResult, Value};

use super::{
    Error, GROUP, Keys, Streams, Unreadable, replies,
    shared::{Purpose, Shared},
    wire,
};
use crate::domain::{Delivery, StreamId};

/// Pending entries that are asked for at once. Redis does nothing else while it
/// lists them.
const PAGE: usize = 1_000;

/// An entry that was handed out and not acknowledged.
#[derive(Clone, Debug)]
pub struct Pending {
    pub partition: u16,
    pub id: StreamId,
    /// Whom it was handed to last,
    pub consumer: String,
    /// how long ago,
    pub idle: Duration,
    /// and how often.
    pub deliveries: u64,
}

/// What is pending on one partition.
#[derive(Clone, Debug, Default)]
pub struct PendingCount {
    pub pending: u64,
    /// How much of it each consumer has.
    pub consumers: Vec<(String, u64)>,
}

/// What an entry holds.
#[derive(Clone, Debug)]
pub enum Body {
    Delivery(Box<Delivery>),
    /// Something that is not a payment we understand.
    Unreadable(Unreadable),
    /// Nothing: it was deleted.
    Deleted,
}

/// Looks at what is pending.
#[derive(Clone)]
pub struct Inspector {
    connection: Shared,
    keys: Keys,
}

impl Inspector {
    pub(super) async fn connect(streams: &Streams) -> Result<Self, Error> {
        let connection = streams.connect_shared(Purpose::Other).await?;
        Ok(Self { connection, keys: streams.keys.clone() })
    }

    /// How much is pending on each partition, in order.
    pub async fn counts(&self) -> Result<Vec<PendingCount>, Error> {
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            pipeline.cmd("XPENDING").arg(self.keys.stream(partition)).arg(GROUP);
        }
        let replies: Vec<Value> = pipeline.query_async(&mut self.connection.clone()).await?;
        replies.into_iter().map(count).collect()
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

    /// One entry, if it is pending.
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
        let reply = command.query_async(&mut self.connection.clone()).await?;
        let rows = replies::array(reply, "XPENDING")?.into_iter();
        rows.map(|row| pending(partition, row)).collect()
    }

    /// What these entries hold, in their order.
    pub async fn bodies(&self, entries: &[(u16, StreamId)]) -> Result<Vec<Body>, Error> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(entries.len());
        for (partition, id) in entries {
            let id = id.to_string();
            pipeline.cmd("XRANGE").arg(self.keys.stream(*partition)).arg(&id).arg(&id);
        }
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<Value>> =
            pipeline.query_async(&mut self.connection.clone()).await?;
        entries.iter().zip(replies).map(|((p, id), reply)| self.body(*p, *id, reply?)).collect()
    }

    fn body(&self, partition: u16, id: StreamId, reply: Value) -> Result<Body, Error> {
        let Some((_, Some(fields))) = replies::entries(reply)?.pop() else {
            return Ok(Body::Deleted);
        };
        let decoded = wire::decode(&self.keys, (partition, wire::SEQUENCE_MAX), id, fields);
        Ok(match decoded {
            Ok(delivery) => Body::Delivery(Box::new(delivery)),
            Err(unreadable) => Body::Unreadable(unreadable),
        })
    }
}

/// `[count, first, last, [[consumer, count], …]]`.
fn count(reply: Value) -> Result<PendingCount, Error> {
    const WHAT: &str = "XPENDING";
    let mut cells = replies::array(reply, WHAT)?.into_iter();
    let pending = cells.next().ok_or(Error::Shape(WHAT))?;
    let pending = u64::try_from(replies::integer(&pending, WHAT)?).unwrap_or(0);
    let consumer = |pair: Value| {
        let pair = replies::array(pair, WHAT)?;
        let [name, count] = pair.as_slice() else { return Err(Error::Shape(WHAT)) };
        let count = u64::try_from(replies::integer(count, WHAT)?).unwrap_or(0);
        Ok((replies::text(name, WHAT)?.to_owned(), count))
    };
    let consumers = replies::array(cells.nth(2).unwrap_or(Value::Nil), WHAT)?;
    Ok(PendingCount {
        pending,
        consumers: consumers.into_iter().map(consumer).collect::<Result<_, _>>()?,
    })
}

/// `[id, consumer, idle in ms, deliveries]`.
fn pending(partition: u16, row: Value) -> Result<Pending, Error> {
    const WHAT: &str = "XPENDING";
    let row = replies::array(row, WHAT)?;
    let [id, consumer, idle, deliveries] = row.as_slice() else { return Err(Error::Shape(WHAT)) };
    let number = |value| Ok::<_, Error>(u64::try_from(replies::integer(value, WHAT)?).unwrap_or(0));
    Ok(Pending {
        partition,
        id: replies::parsed(id, WHAT)?,
        consumer: replies::text(consumer, WHAT)?.to_owned(),
        idle: Duration::from_millis(number(idle)?),
        deliveries: number(deliveries)?,
    })
}
