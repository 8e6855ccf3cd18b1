//! Takes entries for one lane of a worker and acknowledges them.
//!
//! Waiting is `XREAD BLOCK`, which has no side effect; taking is a fenced,
//! non-blocking script. A blocked `XREADGROUP` could outlive its owner and take
//! an entry from the next one. After any doubt about what was taken, the caller
//! reclaims everything pending before it takes anything new.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use redis::{Pipeline, Value};
use tokio::time::timeout;

use super::{
    Error, GROUP, Keys, Streams, connecting::RESPONSE_TIMEOUT, lineage, lines::Lines,
    replies::Entry, scripts, servers::Opening, wire,
};
use crate::domain::{CustomerId, DeadEntry, Delivery, Fence, StreamId};

/// Approximate length of a partition's dead stream.
const DEAD_NOTICES_MAX: u32 = 10_000;
/// How long those slots of a cluster may take together that are only asked whether they have
/// something.
const EMPTY_PATIENCE: Duration = Duration::from_millis(10);
/// How long a server may be silent before it is looked whether it still serves.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// Longest time a batch may hold back the balance cache if its worker dies.
const SETTLING_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub enum Taken {
    Delivery(Delivery),
    Unreadable(Box<DeadEntry>),
    /// An entry that was pending and has been deleted from the stream.
    Deleted(u16, StreamId),
}

#[derive(Clone, Debug, Default)]
pub struct TakenFrom {
    pub taken: Vec<Taken>,
    /// The last id of the page; the next one starts behind it.
    pub last_id: Option<StreamId>,
    /// Earlier deliveries of redelivered entries.
    pub earlier: Vec<Delivered>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub id: StreamId,
    pub worker: String,
    pub ago: Duration,
    pub deliveries: u32,
}

/// One lane's half of the stream. Its connections are plain ones: a silent
/// reconnect would let a worker that slept go on without asking who owns what.
pub struct Consumer {
    pub(super) reader: Lines,
    waiter: Lines,
    /// One for each question that may be under way.
    waiters: BTreeMap<u16, Lines>,
    /// Questions under way. They have no effect, so an old one is as good as a new one. Never
    /// locked.
    waiting: Mutex<FuturesUnordered<Waiting>>,
    /// What they are about: partitions of a cluster, or all.
    asked: BTreeSet<u16>,
    pub(super) keys: Keys,
    pub(super) worker: String,
    incarnation: String,
    /// The highest value seen of each partition's counter.
    pub(super) counted: BTreeMap<u16, i64>,
}

/// What was asked about, and the partitions of it that have an entry.
type Waiting = BoxFuture<'static, (u16, Result<Vec<u16>, Error>)>;

impl Consumer {
    pub(super) async fn connect(
        streams: &Streams,
        worker: &str,
        incarnation: &str,
    ) -> Result<Self, Error> {
        let opening = |response_timeout, scripts| Opening {
            name: format!("worker:{worker}:{incarnation}"),
            key_prefix: streams.keys.prefix().to_owned(),
            response_timeout,
            insists_on_safety: streams.insists_on_safety,
            scripts,
        };
        let opening_reader = opening(RESPONSE_TIMEOUT, &scripts::OF_A_LANE);
        let reader = Lines::new(&streams.servers, opening_reader).await?;
        // A blocked read answers up to twice its time late.
        let waiter = Lines::new(&streams.servers, opening(2 * RESPONSE_TIMEOUT, &[])).await?;
        Ok(Self {
            reader,
            waiter,
            waiters: BTreeMap::new(),
            waiting: Mutex::default(),
            asked: BTreeSet::new(),
            keys: streams.keys.clone(),
            worker: worker.to_owned(),
            incarnation: incarnation.to_owned(),
            counted: BTreeMap::new(),
        })
    }

    /// Compares the highest sequence known to have been given out in each partition with this
    /// server's history, before anything is taken from it. Losses are noted in the history.
    pub async fn compare(&mut self, known: &[(u16, i64)]) -> Result<(), Error> {
        let mut pipeline = Pipeline::with_capacity(known.len());
        for (partition, sequence) in known {
            let seen = self.counted.entry(*partition).or_default();
            *seen = (*seen).max(*sequence);
            let (slot, known) = (self.keys.slot(*partition), (*sequence, ("-", 0)));
            let server = self.reader.server(slot).await?;
            pipeline.add_command(lineage::command(&self.keys, *partition, &server, known));
        }
        Ok(pipeline.exec_async(&mut self.reader).await?)
    }

    /// Notes lost sequences for the gateways, so that payments sent again are accepted again.
    pub async fn lose(&mut self, lost: &[(u16, i64, i64)]) -> Result<(), Error> {
        if lost.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::with_capacity(lost.len());
        for (partition, first, last) in lost {
            let mut command = scripts::LOSE.on(&[self.keys.lost(*partition)]);
            command.arg(first).arg(last);
            pipeline.add_command(command);
        }
        Ok(pipeline.exec_async(&mut self.reader).await?)
    }

    /// Writes the owner of `fences` to Redis, which then refuses takes by anyone else.
    pub async fn mirror(&mut self, fences: &[Fence]) -> Result<(), Error> {
        let mut pipeline = Pipeline::with_capacity(fences.len());
        for fence in fences {
            let mut command = scripts::MIRROR.on(&[self.keys.owner(fence.partition)]);
            command.arg(&self.worker).arg(fence.epoch);
            pipeline.add_command(command);
        }
        Ok(pipeline.exec_async(&mut self.reader).await?)
    }

    /// Closes the connections of a former owner, so that none of its commands arrives late.
    /// Those of this process stay.
    pub async fn cut_off(&mut self, worker: &str) -> Result<(), Error> {
        let theirs = format!("{}:worker:{worker}:", self.keys.prefix());
        let ours = format!("{}:worker:{}:{}", self.keys.prefix(), self.worker, self.incarnation);
        for line in self.reader.opened() {
            let mut connection = line.connection.clone();
            let mut list = redis::cmd("CLIENT");
            list.arg(&["LIST", "TYPE", "normal"]);
            let clients: String = match list.query_async(&mut connection).await {
                Ok(clients) => clients,
                // The ACL may forbid it; the fences hold without it.
                Err(error) if error.code() == Some("NOPERM") => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            for client in clients.lines() {
                let field = |name| client.split(' ').find_map(|field| field.strip_prefix(name));
                let name = field("name=").unwrap_or_default();
                if let Some(id) = field("id=").filter(|_| name.starts_with(&theirs) && name != ours)
                {
                    let mut kill = redis::cmd("CLIENT");
                    kill.arg(&["KILL", "ID", id]).exec_async(&mut connection).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits at most `block` for an entry behind the given ids; returns partitions that have
    /// one. Slots of a cluster are asked about each by itself, and the first answer is enough.
    pub async fn wait(
        &mut self,
        after: &[(u16, StreamId)],
        block: Option<Duration>,
    ) -> Result<Vec<u16>, Error> {
        let many = self.waiter.is_of_a_cluster();
        let end = Instant::now() + block.map_or(EMPTY_PATIENCE, |block| block * 3 / 4);
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        loop {
            // A cluster refuses a question about two slots, and one holds up its connection.
            for after in after.chunks(if many { 1 } else { after.len().max(1) }) {
                let group = if many { after[0].0 } else { 0 };
                if self.asked.insert(group) {
                    let waiter = self.waiters.entry(group).or_insert_with(|| self.waiter.another());
                    let about = (after.to_vec(), block);
                    waiting.push(ask(waiter.clone(), self.keys.clone(), group, about).boxed());
                }
            }
            let mut next = timeout(LOOK_AROUND, waiting.next()).await.ok().flatten();
            if next.is_none() {
                // A server that fell silent may have been replaced.
                for (partition, _) in after {
                    self.waiter.place_of(self.keys.slot(*partition))?;
                }
                continue;
            }
            let mut ready = Vec::new();
            while let Some((group, found)) = next {
                self.asked.remove(&group);
                ready.extend(found?);
                next = waiting.next().now_or_never().flatten();
            }
            // What was asked before may have been given away meanwhile.
            ready.retain(|partition| after.iter().any(|(wanted, _)| wanted == partition));
            // Where one slot has nothing, another may.
            if !many || !ready.is_empty() || Instant::now() >= end {
                return Ok(ready);
            }
        }
    }

    /// Takes up to so many new entries from each partition. Fails with [`Error::Fenced`] when
    /// one has another owner. After any error, entries may have been delivered that we did not
    /// see: reclaim.
    pub async fn take(&mut self, counts: &[(Fence, u32)]) -> Result<Vec<TakenFrom>, Error> {
        let mut pipeline = Pipeline::with_capacity(counts.len());
        for (fence, count) in counts {
            let mut command = scripts::TAKE.on(&self.taking(*fence));
            command.arg(GROUP).arg(&self.worker).arg(fence.epoch).arg(count);
            pipeline.add_command(command);
        }
        let replies: Vec<StreamReply> = pipeline.query_async(&mut self.reader).await?;
        let read = |((fence, _), (mut streams, counter)): (&(Fence, u32), StreamReply)| {
            let entries = streams.pop().map(|(_, entries)| entries).unwrap_or_default();
            self.read(fence.partition, entries, counter.as_deref())
        };
        Ok(counts.iter().zip(replies).map(read).collect())
    }

    /// Claims a page of pending entries, whoever has them, in stream order behind `after`.
    pub async fn reclaim(
        &mut self,
        fence: Fence,
        after: Option<StreamId>,
        count: u32,
    ) -> Result<TakenFrom, Error> {
        let mut command = scripts::RECLAIM.on(&self.taking(fence));
        command.arg(GROUP).arg(&self.worker).arg(fence.epoch).arg(count);
        command.arg(after.map_or_else(|| "-".to_owned(), |id| format!("({id}")));
        let (pending, entries, counter): (Vec<Claimed>, Vec<Entry>, Option<String>) =
            command.query_async(&mut self.reader).await?;
        let mut page = self.read(fence.partition, entries, counter.as_deref());
        let pending: Vec<Delivered> = pending.into_iter().map(Delivered::from).collect();
        page.last_id = pending.last().map(|delivered| delivered.id);
        // XCLAIM silently drops deleted entries from the pending list.
        let gone = pending.iter().map(|delivered| delivered.id);
        let gone = gone.filter(|id| !page.taken.iter().any(|taken| taken.id() == *id));
        let gone: Vec<_> = gone.map(|id| Taken::Deleted(fence.partition, id)).collect();
        page.taken.extend(gone);
        page.taken.sort_by_key(Taken::id);
        page.earlier = pending;
        Ok(page)
    }

    /// Before a batch commits: removes the balances that it changes from the cache, until
    /// [`Consumer::conclude`]. After an error the batch must not commit.
    pub async fn announce(
        &self,
        fences: &[Fence],
        customers: impl Iterator<Item = &CustomerId>,
    ) -> Result<(), Error> {
        let mut keys: Vec<(Fence, Vec<String>)> =
            fences.iter().map(|c| (*c, vec![self.keys.settling(c.partition)])).collect();
        for customer in customers {
            let partition = self.keys.partition_of(customer);
            if let Some((_, keys)) = keys.iter_mut().find(|(fence, _)| fence.partition == partition)
            {
                keys.push(self.keys.balance(customer));
            }
        }
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for (fence, keys) in keys {
            let mut command = scripts::SETTLING_BEGIN.on(&keys);
            command.arg(self.token(fence)).arg(SETTLING_MAX.as_millis().to_string());
            pipeline.add_command(command);
        }
        Ok(pipeline.exec_async(&mut self.reader.clone()).await?)
    }

    /// After a batch has committed: acknowledges its entries, and lets balances be cached
    /// again. After an error the entries stay pending and are reclaimed.
    pub async fn conclude(&mut self, settled: &[(Fence, Vec<StreamId>)]) -> Result<(), Error> {
        let mut pipeline = Pipeline::with_capacity(settled.len());
        for (fence, ids) in settled {
            let keys = [self.keys.settling(fence.partition), self.keys.stream(fence.partition)];
            let mut command = scripts::SETTLED.on(&keys);
            command.arg(self.token(*fence)).arg(GROUP).arg(ids);
            pipeline.add_command(command);
        }
        Ok(pipeline.exec_async(&mut self.reader).await?)
    }

    /// Acknowledges an entry that is a dead letter in the ledger, and appends a notice to the
    /// partition's dead stream, once. After an error the entry stays pending and is reclaimed.
    pub async fn bury(
        &mut self,
        partition: u16,
        id: StreamId,
        code: &str,
        reason: &str,
    ) -> Result<(), Error> {
        let keys = [self.keys.stream(partition), self.keys.dead(partition)];
        let mut command = scripts::BURY.on(&keys);
        command.arg(GROUP).arg(id).arg(code).arg(reason);
        Ok(command.arg(DEAD_NOTICES_MAX).exec_async(&mut self.reader).await?)
    }

    /// Removes consumers of former owners that have no pending entries.
    pub async fn forget_others(&mut self, fence: Fence) -> Result<(), Error> {
        let mut command = scripts::FORGET_CONSUMERS.on(&[self.keys.stream(fence.partition)]);
        Ok(command.arg(GROUP).arg(&self.worker).exec_async(&mut self.reader).await?)
    }

    fn taking(&self, fence: Fence) -> [String; 3] {
        let Fence { partition, .. } = fence;
        [self.keys.stream(partition), self.keys.owner(partition), self.keys.sequence(partition)]
    }

    fn read(&mut self, partition: u16, entries: Vec<Entry>, counter: Option<&str>) -> TakenFrom {
        let place = (partition, self.given_out(partition, counter));
        let last_id = entries.last().map(|entry| entry.id);
        let taken = |Entry { id, fields }| {
            let Some(fields) = fields else { return Taken::Deleted(partition, id) };
            match wire::decode(&self.keys, place, id, fields) {
                Ok(delivery) => Taken::Delivery(delivery),
                Err(unreadable) => Taken::Unreadable(unreadable),
            }
        };
        let taken = entries.into_iter().map(taken).collect();
        TakenFrom { taken, last_id, earlier: Vec::new() }
    }

    fn token(&self, fence: Fence) -> String {
        format!("{}.{}", self.worker, fence.epoch)
    }
}

/// Asks which of these partitions have an entry behind these ids.
async fn ask(
    mut waiter: Lines,
    keys: Keys,
    group: u16,
    (after, block): (Vec<(u16, StreamId)>, Option<Duration>),
) -> (u16, Result<Vec<u16>, Error>) {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(1);
    if let Some(block) = block {
        // BLOCK 0 would mean for ever.
        command.arg("BLOCK").arg(block.as_millis().max(1).to_string());
    }
    command.arg("STREAMS");
    for (partition, _) in &after {
        command.arg(keys.stream(*partition));
    }
    for (_, id) in &after {
        command.arg(id);
    }
    let asking = async {
        let streams: Vec<(String, Value)> = command.query_async(&mut waiter).await?;
        let has_some = |partition: &u16| {
            let stream = keys.stream(*partition);
            streams.iter().any(|(name, _)| *name == stream)
        };
        Ok(after.iter().map(|(partition, _)| *partition).filter(has_some).collect())
    };
    (group, asking.await)
}

/// Entries of one stream, and its counter.
type StreamReply = (Vec<(String, Vec<Entry>)>, Option<String>);
/// One row of `XPENDING`: id, consumer, milliseconds ago, how often.
type Claimed = (StreamId, String, u64, u32);

impl From<Claimed> for Delivered {
    fn from((id, worker, ago, deliveries): Claimed) -> Self {
        Self { id, worker, ago: Duration::from_millis(ago), deliveries }
    }
}

impl Taken {
    pub fn id(&self) -> StreamId {
        match self {
            Self::Delivery(delivery) => delivery.stream_id,
            Self::Unreadable(unreadable) => unreadable.stream_id,
            Self::Deleted(_, id) => *id,
        }
    }
}
