//! Looks at what is pending, and at Redis itself, for operators. Never claims,
//! never acknowledges, and asks for no more than a page at a time, so that
//! payments hardly wait.

use std::time::Duration;

use redis::aio::ConnectionManager;

use super::{Error, Keys, Streams, Unreadable};
use crate::domain::{Delivery, StreamId};

/// An entry that was handed out and not acknowledged.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Where.
    pub partition: u16,
    /// Which.
    pub id: StreamId,
    /// Whom it was handed to last,
    pub consumer: String,
    /// how long ago,
    pub idle: Duration,
    /// and how often.
    pub deliveries: u64,
}

/// What an entry holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// A payment, and the trace context that came with it.
    Delivery(Delivery, Option<String>),
    /// Something that is not a payment we understand.
    Unreadable(Unreadable),
    /// Nothing: it was deleted.
    Deleted,
}

/// Looks at what is pending.
#[derive(Clone)]
pub struct Inspector {
    connection: ConnectionManager,
    keys: Keys,
}

impl Inspector {
    pub(super) async fn connect(streams: &Streams) -> Result<Self, Error> {
        let connection = streams.connect_shared().await?;
        Ok(Self { connection, keys: streams.keys.clone() })
    }

    /// Entries of our group on one partition, from `from` on; at most `limit`
    /// of them. `min_idle` and `consumer` narrow them down.
    ///
    /// # Errors
    /// [`Error::StateLost`] when the stream or our group is gone.
    pub async fn pending(
        &self,
        partition: u16,
        from: StreamId,
        min_idle: Option<Duration>,
        consumer: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Pending>, Error> {
        let _ = (partition, from, min_idle, consumer, limit, &self.connection, &self.keys);
        todo!()
    }
}
