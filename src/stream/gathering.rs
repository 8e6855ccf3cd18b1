//! Gathers payments that come one by one: those that come while an append of their partition is
//! under way, or shortly after another, go together. Redis then looks once for many of them, and
//! syncs once. Never makes one wait where nothing was sent just before, never changes their order.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Appended, Error, Producer, ReceivedPayment,
    producer::{CHUNK_MAX, CONNECTIONS},
    shared::lock,
};

/// How long an append keeps those that came after it waiting: longer than one takes that Redis
/// answers, as a rule. Behind one that is sent again they go by themselves.
const PATIENCE: Duration = Duration::from_millis(100);
/// Payments under way on one connection before the next is used: what Redis reads in one turn.
/// While there are few, they share one connection and so its reads and writes.
const PAYMENTS_OF_A_CONNECTION: usize = 24;

/// A producer for payments that have nothing to do with each other.
#[derive(Clone)]
pub struct Gathering(Arc<GatheringState>);

struct GatheringState {
    producer: Producer,
    linger: Duration,
    queues: Mutex<Queues>,
    /// One for each departure whose payments are not all answered.
    departures: Mutex<JoinSet<()>>,
}

/// Payments that are not sent yet. Bounded by the requests under way; of those whose clients have
/// gone, until the next departure of their partition.
struct Queues {
    of_partitions: Vec<Queue>,
    /// Partitions of which some wait and none is under way.
    ready: Vec<u16>,
    /// Whether a departure will take those that are ready.
    departs: bool,
    /// The last departure.
    departed: Option<Instant>,
    /// Payments that are sent and not answered, but for those that are late.
    under_way: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<QueuedPayment>,
    is_under_way: bool,
}

struct QueuedPayment {
    arrival: Arc<ReceivedPayment>,
    answer: oneshot::Sender<Result<Appended, Error>>,
}

/// Payments of one partition that go together.
struct Departing<'a> {
    connection: usize,
    payments: Vec<QueuedPayment>,
    /// From the beginning: whatever becomes of this, the next may follow.
    under_way: UnderWay<'a>,
}

impl Gathering {
    /// `linger`: how long after a departure payments gather for the next.
    pub fn new(producer: Producer, linger: Duration) -> Self {
        let of_partitions = (0..producer.keys.partitions).map(|_| Queue::default()).collect();
        let (ready, departs, departed, under_way) = (Vec::new(), false, None, 0);
        let queues = Queues { of_partitions, ready, departs, departed, under_way };
        let (queues, departures) = (Mutex::new(queues), Mutex::default());
        Self(Arc::new(GatheringState { producer, linger, queues, departures }))
    }

    /// Appends one payment; it is on disk, and where replicas count with them, when this returns.
    /// Beyond the deadline it takes as long as payments of its partition wait before it: 200 ms, and
    /// 100 ms more for each 200 of them.
    ///
    /// # Errors
    /// As [`Producer::append`].
    pub async fn append(&self, arrival: Arc<ReceivedPayment>) -> Result<Appended, Error> {
        let partition = self.0.producer.keys.partition_of(&arrival.payment.customer);
        let (answer, answered) = oneshot::channel();
        {
            let mut all = self.queues();
            let queue = &mut all.of_partitions[usize::from(partition)];
            queue.waiting.push_back(QueuedPayment { arrival, answer });
            if !queue.is_under_way && queue.waiting.len() == 1 {
                all.ready.push(partition);
                self.depart_if_ready(&mut all);
            }
        }
        answered.await.unwrap_or(Err(Error::Shape("append")))
    }

    fn depart_if_ready(&self, all: &mut Queues) {
        if all.ready.is_empty() || mem::replace(&mut all.departs, true) {
            return;
        }
        let due = all.departed.map(|at| at + self.0.linger);
        let mut departures = lock(&self.0.departures);
        while departures.try_join_next().is_some() {}
        departures.spawn(self.clone().depart(due));
    }

    /// Sends what is ready at that time: at once, so that Redis reads it at once.
    async fn depart(self, due: Option<Instant>) {
        if let Some(due) = due.filter(|due| *due > Instant::now()) {
            sleep_until(due).await;
        }
        let departing = self.take_ready();
        join_all(departing.into_iter().map(|one| self.send(one))).await;
    }

    fn take_ready(&self) -> Vec<Departing<'_>> {
        let mut all = self.queues();
        let all = &mut *all;
        (all.departs, all.departed) = (false, Some(Instant::now()));
        let mut departing = Vec::with_capacity(all.ready.len());
        for partition in mem::take(&mut all.ready) {
            let queue = &mut all.of_partitions[usize::from(partition)];
            // Whoever has gone knows that it is not known what became of it.
            queue.waiting.retain(|one| !one.answer.is_closed());
            let count = queue.waiting.len().min(CHUNK_MAX);
            if count > 0 {
                queue.is_under_way = true;
                let connection = all.under_way / PAYMENTS_OF_A_CONNECTION % CONNECTIONS;
                let payments = queue.waiting.drain(..count).collect();
                let under_way = UnderWay { gathering: self, partition, count };
                departing.push(Departing { connection, payments, under_way });
                all.under_way += count;
            }
        }
        departing
    }

    async fn send(&self, departing: Departing<'_>) {
        let Departing { connection, payments, under_way } = departing;
        let partition = under_way.partition;
        let (arrivals, answers): (Vec<_>, Vec<_>) =
            payments.into_iter().map(|one| (one.arrival, one.answer)).unzip();
        let arrivals: Vec<&ReceivedPayment> = arrivals.iter().map(Arc::as_ref).collect();
        let appending = self.0.producer.append_each(partition, connection, &arrivals);
        tokio::pin!(appending);
        let in_time = timeout(PATIENCE, &mut appending).await;
        drop(under_way);
        let appended = match in_time {
            Ok(appended) => appended,
            Err(_) => appending.await,
        };
        for (answer, appended) in answers.into_iter().zip(appended) {
            // Whoever has gone does not hear it.
            let _ = answer.send(appended);
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        lock(&self.0.queues)
    }
}

/// Payments of a partition are under way; when this is dropped, the next may follow.
struct UnderWay<'a> {
    gathering: &'a Gathering,
    partition: u16,
    count: usize,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut all = self.gathering.queues();
        all.under_way -= self.count;
        let queue = &mut all.of_partitions[usize::from(self.partition)];
        queue.is_under_way = false;
        if !queue.waiting.is_empty() {
            all.ready.push(self.partition);
            self.gathering.depart_if_ready(&mut all);
        }
    }
}
