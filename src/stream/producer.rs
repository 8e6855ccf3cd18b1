//! Appends payments, once each. Never reads them back.
//!
//! The append script recognises a reference that was seen within its window,
//! so an append whose outcome is not known is simply sent again, until its
//! deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, RedisResult, Value, aio::ConnectionManager};
use tokio::time::timeout;

use super::{
    Error, GROUP, Keys, Streams, replies,
    scripts::{self, Lua},
    wire,
};
use crate::{
    domain::{Payment, StreamId, TraceContext},
    telemetry::traceparent,
};

/// Connections to Redis. In one turn Redis reads about 16 KiB from each, and
/// syncs once for all that it read: one connection alone would bound how many
/// payments share a sync.
const CONNECTIONS: usize = 16;
/// Appends on one connection before the next is used. While there are few, they
/// share one connection and so its reads and writes.
const APPENDS_PER_CONNECTION: usize = 24;
/// Payments sent to Redis in one go.
const PIPELINE_MAX: usize = 500;
/// Pauses between attempts while Redis is away: from this,
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// doubling up to this.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Bounds of an append.
#[derive(Clone, Copy, Debug)]
pub struct AppendLimits {
    /// Unsettled entries one stream may hold.
    pub backlog_max: u32,
    /// How long a reference is recognised.
    pub dedupe_window: Duration,
    /// How long an append may take, retries included.
    pub deadline: Duration,
}

/// Where a payment is in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its customer's partition.
    pub partition: u16,
    /// Its contiguous number there.
    pub sequence: i64,
    /// Its entry id.
    pub stream_id: StreamId,
}

/// What an append found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is on disk.
    Accepted(Place),
    /// The same payment was appended before; this is where.
    Duplicate(Place),
    /// Another payment has this reference; this is where.
    Conflict(Place),
}

/// A payment and what its entry says about its arrival.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The payment.
    pub payment: Payment,
    /// When the gateway took it.
    pub received_at: DateTime<Utc>,
    /// The span that sends it, if it is traced.
    pub trace: Option<TraceContext>,
}

/// The half of the stream that the gateway is handed.
#[derive(Clone)]
pub struct Producer {
    connections: Arc<[ConnectionManager]>,
    /// Appends under way.
    under_way: Arc<AtomicUsize>,
    /// For each partition the highest sequence that is known to have been given
    /// out. A stream that counts on from below has gone back in time.
    given_out: Arc<[AtomicI64]>,
    keys: Keys,
    limits: AppendLimits,
    append: Lua,
}

impl Producer {
    pub(super) async fn connect(streams: &Streams, limits: AppendLimits) -> Result<Self, Error> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(streams.connect_shared().await?);
        }
        Ok(Self {
            connections: connections.into(),
            under_way: Arc::default(),
            given_out: (0..streams.keys.partitions).map(|_| AtomicI64::new(0)).collect(),
            keys: streams.keys.clone(),
            limits,
            append: Lua::new(concat!(
                include_str!("lua/entries_after.lua"),
                include_str!("lua/append.lua")
            )),
        })
    }

    /// Says that a sequence of a partition has been given out, by whomever.
    pub fn expect(&self, partition: u16, sequence: i64) {
        if let Some(highest) = self.given_out.get(usize::from(partition)) {
            highest.fetch_max(sequence, Ordering::Relaxed);
        }
    }

    /// Appends one payment; it is on disk when this returns.
    ///
    /// # Errors
    /// An outage when Redis was away until the deadline: the payment may or may
    /// not be in the stream, and sending it again is safe.
    pub async fn append(&self, arrival: &Arrival) -> Result<Appended, Error> {
        let command = self.command(arrival);
        let partition = self.keys.partition_of(&arrival.payment.customer);
        let doubt = Doubt::default();
        let attempt = || async {
            let (mut connection, _under_way) = self.connection();
            let mut reply = command.query_async::<Value>(&mut connection).await;
            if reply.as_ref().is_err_and(scripts::is_unknown) {
                self.append.load(&mut connection).await?;
                reply = command.query_async(&mut connection).await;
            }
            doubt.settle(self.note(read_appended(reply, partition)))
        };
        self.insist(attempt).await
    }

    /// Appends many payments, those of one customer in their order; answers for
    /// each in the order given.
    pub async fn append_all(&self, arrivals: &[Arrival]) -> Vec<Result<Appended, Error>> {
        // What belongs to one partition goes over one connection, in order.
        let mut hands: Vec<Vec<usize>> = vec![Vec::new(); CONNECTIONS];
        for (index, arrival) in arrivals.iter().enumerate() {
            let partition = self.keys.partition_of(&arrival.payment.customer);
            hands[usize::from(partition) % CONNECTIONS].push(index);
        }
        let appending = hands.iter().enumerate().map(|(connection, hand)| async move {
            let hand: Vec<&Arrival> = hand.iter().map(|index| &arrivals[*index]).collect();
            self.append_hand(connection, &hand).await
        });
        let mut results: Vec<_> = arrivals.iter().map(|_| None).collect();
        for (hand, appended) in hands.iter().zip(join_all(appending).await) {
            for (index, result) in hand.iter().zip(appended) {
                results[*index] = Some(result);
            }
        }
        let missing = || Err(Error::Shape("append"));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(redis::cmd("PING").exec_async(&mut self.connection().0).await?)
    }

    /// Appends payments in order over one connection.
    async fn append_hand(
        &self,
        connection: usize,
        hand: &[&Arrival],
    ) -> Vec<Result<Appended, Error>> {
        let mut results = Vec::with_capacity(hand.len());
        for chunk in hand.chunks(PIPELINE_MAX) {
            match self.append_chunk(connection, chunk).await {
                Ok(appended) => results.extend(appended),
                Err(_) => break,
            }
        }
        // After a chunk that found no Redis, the rest would wait in vain.
        results.resize_with(hand.len(), || Err(Error::Deadline(self.limits.deadline)));
        results
    }

    async fn append_chunk(
        &self,
        connection: usize,
        chunk: &[&Arrival],
    ) -> Result<Vec<Result<Appended, Error>>, Error> {
        let mut pipeline = Pipeline::with_capacity(chunk.len());
        for arrival in chunk {
            pipeline.add_command(self.command(arrival));
        }
        pipeline.ignore_errors();
        let doubt = Doubt::default();
        let attempt = || async {
            let mut connection = self.connections[connection].clone();
            let mut replies: Vec<RedisResult<Value>> =
                pipeline.query_async(&mut connection).await?;
            if replies.iter().any(|reply| reply.as_ref().is_err_and(scripts::is_unknown)) {
                self.append.load(&mut connection).await?;
                replies = pipeline.query_async(&mut connection).await?;
            }
            let results = replies.into_iter().zip(chunk).map(|(reply, arrival)| {
                let partition = self.keys.partition_of(&arrival.payment.customer);
                match doubt.settle(self.note(read_appended(reply, partition))) {
                    // One that found no Redis sends the whole chunk again.
                    Err(error) if error.is_outage() => Err(error),
                    result => Ok(result),
                }
            });
            results.collect()
        };
        self.insist(attempt).await
    }

    /// The connection to use now, counted for as long as the guard lives.
    fn connection(&self) -> (ConnectionManager, UnderWay) {
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed);
        let index = under_way / APPENDS_PER_CONNECTION % self.connections.len();
        (self.connections[index].clone(), UnderWay(Arc::clone(&self.under_way)))
    }

    /// Repeats an attempt while Redis is away, until the deadline.
    async fn insist<T, F, A>(&self, attempt: F) -> Result<T, Error>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<T, Error>>,
    {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_jitter()
            .without_max_times();
        let insisting = attempt.retry(pauses).when(Error::is_outage);
        let deadline = self.limits.deadline;
        timeout(deadline, insisting).await.unwrap_or(Err(Error::Deadline(deadline)))
    }

    /// Remembers how far the stream is known to have come.
    fn note(&self, result: Result<Appended, Error>) -> Result<Appended, Error> {
        if let Ok(Appended::Accepted(place)) = &result {
            self.expect(place.partition, place.sequence);
        }
        result
    }

    fn command(&self, arrival: &Arrival) -> Cmd {
        let Arrival { payment, received_at, trace } = arrival;
        let partition = self.keys.partition_of(&payment.customer);
        let keys = [
            self.keys.stream(partition),
            self.keys.sequence(partition),
            self.keys.reference(partition, &payment.reference),
            self.keys.lost(partition),
            self.keys.backlog(partition),
        ];
        let given_out = self.given_out[usize::from(partition)].load(Ordering::Relaxed);
        let mut command = self.append.on(&keys);
        command
            .arg(self.limits.backlog_max)
            .arg(u64::try_from(self.limits.dedupe_window.as_millis()).unwrap_or(u64::MAX))
            .arg(payment.status.as_str())
            .arg(payment.digest().to_string())
            .arg(wire::VERSION)
            .arg(wire::encode(payment))
            .arg(received_at.timestamp_millis())
            .arg(given_out)
            .arg(GROUP);
        if let Some(traceparent) = trace.as_ref().and_then(traceparent::write) {
            command.arg(traceparent);
        }
        command
    }
}

/// One append under way.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Set once an attempt's outcome is unknown: a duplicate that a later attempt
/// finds is then taken for what the first one appended.
#[derive(Default)]
struct Doubt(AtomicBool);

impl Doubt {
    fn settle(&self, result: Result<Appended, Error>) -> Result<Appended, Error> {
        match result {
            Err(error) if error.is_outage() => {
                self.0.store(true, Ordering::Relaxed);
                Err(error)
            }
            Ok(Appended::Duplicate(place)) if self.0.load(Ordering::Relaxed) => {
                Ok(Appended::Accepted(place))
            }
            result => result,
        }
    }
}

fn read_appended(reply: RedisResult<Value>, partition: u16) -> Result<Appended, Error> {
    const SHAPE: Error = Error::Shape("append");
    let reply = match reply {
        Err(error) if error.code() == Some("BACKPRESSURE") => {
            return Err(Error::BacklogFull(partition));
        }
        reply => reply?,
    };
    let mut words = replies::text(&reply, "append")?.split(' ');
    let (Some(found), Some(sequence), Some(id)) = (words.next(), words.next(), words.next()) else {
        return Err(SHAPE);
    };
    let sequence = sequence.parse().map_err(|_| SHAPE)?;
    let place = Place { partition, sequence, stream_id: id.parse().map_err(|_| SHAPE)? };
    match found {
        "appended" => Ok(Appended::Accepted(place)),
        "duplicate" => Ok(Appended::Duplicate(place)),
        "conflict" => Ok(Appended::Conflict(place)),
        _ => Err(SHAPE),
    }
}
