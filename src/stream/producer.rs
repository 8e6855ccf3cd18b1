//! Appends payments, once each and in order. Never reads them back.
//!
//! Payments of one partition go to Redis in one script, which does all of them
//! or none. It recognises a reference that was seen within its window, so what
//! has an unknown outcome is sent again, until the deadline; nothing that came
//! after it is sent before.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use redis::{Cmd, RedisResult, Value};
use tokio::time::timeout;
use tracing::error;

use super::{
    Appended, Error, GROUP, Keys, Streams,
    appended::{accept_our_own, read_appended},
    authority::Authority,
    lineage::{self, KnownSequences},
    references::{Name, References, Tables},
    replication::Replication,
    scripts,
    server::Primary,
    shared::{ServerLine, SharedConnection, lock},
    wire,
};
use crate::{
    domain::{Evidence, Payment, TraceContext},
    telemetry::traceparent,
};

/// Connections to Redis. In one turn Redis reads about 16 KiB from each, and syncs once for all
/// that it read: one connection alone would bound how many payments share a sync.
pub(super) const CONNECTIONS: usize = 16;
/// Payments appended in one step, which takes Redis about 2 ms.
pub(super) const CHUNK_MAX: usize = 200;
/// Pauses between attempts while Redis is away; they double.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
pub struct AppendLimits {
    /// Unsettled entries one stream may hold.
    pub backlog_max: u32,
    /// How many of them may be of one source; all, where sources have no shares.
    pub share_max: u32,
    /// How long a reference is recognised.
    pub dedupe_window: Duration,
    /// How long an append may take, retries included.
    pub deadline: Duration,
}

/// A payment and what its entry says about its arrival.
#[derive(Clone, Debug)]
pub struct ReceivedPayment {
    pub payment: Payment,
    pub received_at: DateTime<Utc>,
    /// The span that sends it, if it is traced.
    pub trace: Option<TraceContext>,
    pub evidence: Option<Arc<Evidence>>,
}

/// The half of the stream that the gateway is handed.
#[derive(Clone)]
pub struct Producer {
    pub(super) connections: Arc<[SharedConnection]>,
    /// For each partition what is known to have been given out.
    known: Arc<[Mutex<KnownSequences>]>,
    pub(super) keys: Keys,
    pub(super) limits: AppendLimits,
    authority: Option<Authority>,
    replication: Option<Replication>,
    pub(super) references: References,
}

/// Payments of one partition that are appended in one step.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    partition: u16,
    payments: &'a [&'a ReceivedPayment],
    /// They have nothing to do with each other: one that is refused stops none.
    are_apart: bool,
}

impl Producer {
    pub(super) async fn connect(streams: &Streams, limits: AppendLimits) -> Result<Self, Error> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(streams.shared_for(Some(limits.deadline)).await?);
        }
        Ok(Self {
            connections: connections.into(),
            known: (0..streams.keys.partitions).map(|_| Mutex::default()).collect(),
            keys: streams.keys.clone(),
            limits,
            authority: streams.authority.clone(),
            replication: Replication::connect(streams, limits.deadline).await?,
            references: References::new(streams.keys.partitions, limits.dedupe_window),
        })
    }

    /// Says that a sequence of a partition has been given out, by whomever.
    pub fn expect(&self, partition: u16, sequence: i64) {
        self.known(partition).raise(sequence, None);
    }

    /// Appends one payment; it is on disk, and where replicas count with them, when this returns.
    ///
    /// # Errors
    /// An outage when Redis was away until the deadline, or too few replicas were there: the
    /// payment may or may not be in the stream, and sending it again is safe.
    pub async fn append(&self, arrival: &ReceivedPayment) -> Result<Appended, Error> {
        let partition = self.keys.partition_of(&arrival.payment.customer);
        let mut appended = self.append_each(partition, 0, &[arrival]).await;
        appended.pop().unwrap_or(Err(Error::Shape("append")))
    }

    /// Appends payments of one partition that have nothing to do with each other: one that is
    /// refused stops none.
    pub(super) async fn append_each(
        &self,
        partition: u16,
        connection: usize,
        payments: &[&ReceivedPayment],
    ) -> Vec<Result<Appended, Error>> {
        let chunk = Chunk { partition, payments, are_apart: true };
        let appended = self.append_chunk(&self.connections[connection], chunk).await;
        appended.unwrap_or_else(|error| vec![Err(error); payments.len()])
    }

    /// Appends many payments, those of one customer in their order; answers for
    /// each in the order given. Nothing of a partition is sent while it is not
    /// known what became of what was sent before it, nor after a refusal.
    pub async fn append_all(&self, arrivals: &[ReceivedPayment]) -> Vec<Result<Appended, Error>> {
        let mut hands: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (index, arrival) in arrivals.iter().enumerate() {
            let partition = self.keys.partition_of(&arrival.payment.customer);
            hands.entry(partition).or_default().push(index);
        }
        let appending = hands.iter().map(|(partition, hand)| async move {
            let hand: Vec<&ReceivedPayment> = hand.iter().map(|index| &arrivals[*index]).collect();
            self.append_hand(*partition, &hand).await
        });
        let mut results: Vec<_> = arrivals.iter().map(|_| None).collect();
        for (hand, appended) in hands.values().zip(join_all(appending).await) {
            for (index, result) in hand.iter().zip(appended) {
                results[*index] = Some(result);
            }
        }
        let missing = || Err(Error::Shape("append"));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// Whether Redis answers, and is still one that payments may be given to.
    pub async fn ping(&self) -> Result<(), Error> {
        let shared = &self.connections[0];
        let ask = async |line: ServerLine| {
            let mut partitions = 0..self.keys.partitions;
            let is_there = |one: &u16| shared.leads_to(self.keys.slot(*one), &line);
            let partition = partitions.find(is_there).unwrap_or(0);
            let Some(replicas) = &self.replication else {
                // A cluster that is down answers to a PING.
                let mut get = redis::cmd("GET");
                get.arg(self.keys.references(partition));
                let _: Option<String> = redis::from_redis_value(shared.probe(line, &get).await?)?;
                return Ok(());
            };
            replicas.confirm(&self.keys.replicated(partition), &line.server).await
        };
        shared.first(ask).await
    }

    async fn append_hand(
        &self,
        partition: u16,
        hand: &[&ReceivedPayment],
    ) -> Vec<Result<Appended, Error>> {
        let shared = &self.connections[usize::from(partition) % CONNECTIONS];
        let mut results = Vec::with_capacity(hand.len());
        for payments in hand.chunks(CHUNK_MAX) {
            let chunk = Chunk { partition, payments, are_apart: false };
            match self.append_chunk(shared, chunk).await {
                Ok(appended) => results.extend(appended),
                Err(error) => results.push(Err(error)),
            }
            if let Some(Err(error)) = results.last() {
                results.resize(hand.len(), Err(error.clone()));
            }
            if results.len() >= hand.len() {
                break;
            }
        }
        results
    }

    /// Appends payments and insists until it is known what became of them. What follows a
    /// refusal is refused like it, unless they are apart.
    async fn append_chunk(
        &self,
        shared: &SharedConnection,
        chunk: Chunk<'_>,
    ) -> Result<Vec<Result<Appended, Error>>, Error> {
        let partition = chunk.partition;
        let (doubt, unreplicated) = (AtomicBool::new(false), Mutex::new(None));
        let attempt = || async {
            let began = Instant::now();
            let (server, reply) = self.give(shared, chunk).await?;
            let mut appended = reply.map_err(Error::from).and_then(|reply| {
                read_appended(redis::from_redis_value(reply)?, partition, chunk.payments.len())
            });
            if let (Ok(_), Some(replicas)) = (&appended, &self.replication) {
                // What was appended before must be with them, too.
                let confirmed = replicas.confirm(&self.keys.replicated(partition), &server).await;
                if let Err(error) = confirmed {
                    if matches!(error, Error::Unreplicated { .. }) {
                        *lock(&unreplicated) = Some(error.clone());
                    } else {
                        self.leave(began);
                    }
                    appended = Err(error);
                }
            }
            match appended {
                Err(error) => {
                    doubt.fetch_or(error.is_outage(), Ordering::Relaxed);
                    Err(error)
                }
                Ok(mut appended) => {
                    if doubt.load(Ordering::Relaxed) {
                        accept_our_own(&mut appended);
                    }
                    self.note(partition, &appended, &server);
                    Ok(appended)
                }
            }
        };
        match (self.insist(attempt).await, lock(&unreplicated).take()) {
            (Err(Error::Deadline(_)), Some(unreplicated)) => Err(unreplicated),
            (insisted, _) => insisted,
        }
    }

    /// Gives payments to the server that answers now, and says which it is. One
    /// that another history has been put into is asked anew which it is: it may
    /// have been a replica since its connections were made.
    async fn give(
        &self,
        shared: &SharedConnection,
        chunk: Chunk<'_>,
    ) -> RedisResult<(Arc<Primary>, RedisResult<Value>)> {
        let began = Instant::now();
        let slot = self.keys.slot(chunk.partition);
        let mut line = shared.line(slot).await?;
        let mut reply = shared.ask(&line, self.try_append(line.clone(), chunk)).await;
        if reply.as_ref().is_err_and(lineage::is_another) {
            self.leave(began);
            line = shared.line(slot).await?;
            reply = shared.ask(&line, self.try_append(line.clone(), chunk)).await;
        }
        Ok((line.server, reply))
    }

    async fn try_append(&self, mut line: ServerLine, chunk: Chunk<'_>) -> RedisResult<Value> {
        let partition = chunk.partition;
        if !self.known(partition).is_verified(&line.server) {
            self.verify(&mut line, partition).await?;
        }
        let known = self.known(partition).clone();
        let mut tables = self.references.tables(partition);
        let reply = loop {
            let command = self.command(chunk, &known, &tables);
            let reply = scripts::APPEND.ask(&command, &mut line.connection).await;
            // Nothing was done; there are others now.
            let Some(newer) = Tables::told(&reply) else { break reply };
            tables = Arc::new(newer);
            self.references.note(partition, &tables);
        };
        if reply.as_ref().is_err_and(lineage::is_another) {
            self.known(partition).outdated(known.line());
        }
        reply
    }

    /// Before anything else is given to a server: is what is known to have been
    /// given out part of its history?
    async fn verify(&self, line: &mut ServerLine, partition: u16) -> RedisResult<()> {
        let asked = self.known(partition).clone();
        if let Some(authority) = &self.authority {
            authority.confirm(&line.server).await?;
        }
        let found = lineage::compare(line, (&self.keys, partition), &asked).await?;
        if let Some((lost_first, lost_last)) = found.lost {
            error!(
                partition,
                lost_first,
                lost_last,
                "Redis lacks payments that were acknowledged (failover or restored copy); see \
                 `paystream losses list`"
            );
        }
        self.known(partition).verified(&asked, &line.server, found);
        Ok(())
    }

    pub(super) async fn insist<T, F, A>(&self, attempt: F) -> Result<T, Error>
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

    fn note(&self, partition: u16, appended: &[Result<Appended, Error>], server: &Arc<Primary>) {
        let accepted = appended.iter().rev().find_map(|result| match result {
            Ok(Appended::Accepted(place)) => Some(place),
            Ok(Appended::Duplicate(_) | Appended::Conflict(_)) | Err(_) => None,
        });
        if let Some(place) = accepted {
            self.known(partition).raise(place.sequence, Some(server));
            self.references.saw(partition, place.stream_id);
        }
    }

    /// Gives up connections that were made before this.
    fn leave(&self, before: Instant) {
        self.connections.iter().for_each(|shared| shared.leave(before));
    }

    fn known(&self, partition: u16) -> MutexGuard<'_, KnownSequences> {
        lock(&self.known[usize::from(partition)])
    }

    fn command(&self, chunk: Chunk<'_>, known: &KnownSequences, tables: &Tables) -> Cmd {
        let Chunk { partition, payments, are_apart } = chunk;
        let (refs, old_key) =
            ((self.references.key)(&self.keys, partition), self.references.old_key());
        let mut keys = Vec::with_capacity(7 + payments.len() * (tables.count() + 1));
        keys.push(self.keys.stream(partition));
        keys.push(self.keys.sequence(partition));
        keys.push(self.keys.lost(partition));
        keys.push(self.keys.backlog(partition));
        keys.push(self.keys.lineage(partition));
        keys.push(self.keys.shares(partition));
        keys.push(refs.clone());
        let names = payments.iter().map(|arrival| Name::of(&arrival.payment.reference));
        let names: Vec<Name> = names.collect();
        for (arrival, name) in payments.iter().zip(&names) {
            keys.extend(tables.hashes(&refs, *name));
            keys.extend(old_key.map(|of| of(&self.keys, partition, &arrival.payment.reference)));
        }
        let window = self.references.window_ms();
        // Tables do not end in all partitions at the same time.
        let shift = window / 2 * u64::from(partition) / u64::from(self.keys.partitions);
        let may_be_due = self.references.may_be_due(partition, tables, known.sequence);
        let shift = if may_be_due { shift.to_string() } else { String::new() };
        let mut command = scripts::APPEND.on(&keys);
        command
            .arg(self.limits.backlog_max)
            .arg(window)
            .arg(known.sequence)
            .arg(GROUP)
            .arg(known.line())
            .arg(self.limits.share_max)
            .arg(tables.text())
            .arg(tables.count())
            .arg(tables.end())
            .arg(tables.window())
            .arg(shift)
            .arg(if are_apart { "1" } else { "" });
        for (ReceivedPayment { payment, received_at, trace, evidence }, name) in
            payments.iter().zip(&names)
        {
            let traceparent = trace.as_ref().and_then(traceparent::write);
            let (version, source) = wire::version(&payment.reference);
            command
                .arg(&name.field(payment.status))
                .arg(&payment.digest().0[..8])
                .arg(version)
                .arg(source.unwrap_or_default())
                .arg(wire::encode(payment))
                .arg(received_at.timestamp_millis())
                .arg(traceparent.unwrap_or_default())
                .arg(evidence.as_deref().map(wire::encode_evidence).unwrap_or_default());
        }
        command
    }
}
