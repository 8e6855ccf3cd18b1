//! The sending: each connection takes the next request that is due, sends it, and notes the
//! answer. Latency counts from when the request was due, so that a stall is charged to every
//! request it delayed. Never sends a request again whose outcome is unknown.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hyper::{Method, Request, Uri, body::Bytes};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    args::LoadArgs,
    connection::{Answer, Body, Connection, Failure, Target},
    plan::{Arrival, Plan},
    record::{Record, Times},
    schedule::Pacer,
};

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// One payment as JSON is about so long.
const BODY_BYTES: usize = 208;

/// Everything that the connections share.
#[derive(Debug)]
pub(super) struct Sending {
    target: Target,
    uri: Uri,
    plan: Arc<Plan>,
    pacer: Pacer,
    record: Record,
    batch: u64,
    connections: u32,
    timeout: Duration,
    /// Cancelled when nothing more is to be sent, due or not.
    halt: CancellationToken,
}

/// Why a connection is not used any more.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Closed,
    Over,
}

impl Sending {
    pub(super) fn new(
        args: &LoadArgs,
        target: Target,
        plan: Arc<Plan>,
        pacer: Pacer,
    ) -> anyhow::Result<Self> {
        let path = if args.batch == 1 { "/api/v1/payments" } else { "/api/v1/payments/batch" };
        let batch = u64::from(args.batch);
        Ok(Self {
            uri: target.uri(path)?,
            target,
            plan,
            record: Record::new(pacer.schedule().requests() * batch)?,
            pacer,
            batch,
            connections: args.connections,
            timeout: args.timeout,
            halt: CancellationToken::new(),
        })
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How many payments fall due in all.
    pub(super) fn due(&self) -> u64 {
        self.pacer.schedule().requests() * self.batch
    }

    /// When requests are due.
    pub(super) fn pacer(&self) -> &Pacer {
        &self.pacer
    }

    /// Sends nothing more; requests under way are still waited for.
    pub(super) fn stop(&self) {
        self.halt.cancel();
        self.pacer.stop();
    }

    /// Sends until every request is sent or [`Sending::stop`] is called, and all answers are
    /// there or given up.
    pub(super) async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for _ in 0..self.connections {
            let sending = Arc::clone(&self);
            tasks.spawn(async move { sending.keep_sending().await });
        }
        let sending = Arc::clone(&self);
        tasks.spawn_blocking(move || sending.pacer.run());
        while let Some(ended) = tasks.join_next().await {
            ended.context("a connection's task failed")?;
        }
        Ok(())
    }

    async fn keep_sending(&self) {
        let mut unsent = None;
        while let Some(mut connection) = self.connect(unsent.is_some()).await {
            if self.use_up(&mut connection, &mut unsent).await == Ended::Over {
                break;
            }
        }
    }

    /// Connects, however long it takes; `None` when there is nothing left to send.
    async fn connect(&self, holds_unsent: bool) -> Option<Connection> {
        let mut pause = PAUSE_MIN;
        while !self.halt.is_cancelled() && (holds_unsent || !self.pacer.is_over()) {
            if let Ok(connection) = Connection::open(&self.target).await {
                return Some(connection);
            }
            self.record.figures().connect_failures += 1;
            tokio::select! {
                () = self.halt.cancelled() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
        None
    }

    /// Sends over `connection` until it is closed. What could not be sent stays in `unsent`.
    async fn use_up(&self, connection: &mut Connection, unsent: &mut Option<u64>) -> Ended {
        loop {
            let index = match unsent.take() {
                Some(index) => index,
                None => tokio::select! {
                    biased;
                    next = self.pacer.next() => match next {
                        Some(index) => index,
                        None => return Ended::Over,
                    },
                    () = connection.closed() => return Ended::Closed,
                },
            };
            match self.send(connection, index).await {
                Attempt::Answered => {}
                Attempt::Failed => return Ended::Closed,
                Attempt::Held => {
                    *unsent = Some(index);
                    return Ended::Closed;
                }
            }
        }
    }

    async fn send(&self, connection: &mut Connection, index: u64) -> Attempt {
        let due = self.pacer.schedule().due(index);
        let arrivals = self.arrivals(index);
        let request = self.request(&arrivals);
        let keep = if self.batch == 1 { Body::Discard } else { Body::Keep };

        let sent = Instant::now();
        let exchange = connection.exchange(request, keep);
        let answer = match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Unknown("not answered in time".to_owned())),
        };
        let times = Times { due, sent, ended: Instant::now() };
        match answer {
            Ok(answer) => {
                self.note(times, &arrivals, &answer);
                Attempt::Answered
            }
            Err(Failure::NotSent) => Attempt::Held,
            Err(Failure::Unknown(reason)) => {
                let mut figures = self.record.figures();
                figures.request(times, self.batch);
                for (index, arrival) in arrivals {
                    self.record.unanswered(&mut figures, index, arrival, &reason);
                }
                Attempt::Failed
            }
        }
    }

    /// The request that a payment is sent in.
    pub(super) fn request_of(&self, index: u64) -> u64 {
        index / self.batch
    }

    fn arrivals(&self, request: u64) -> Vec<(u64, Arrival)> {
        let first = request * self.batch;
        (first..first + self.batch).map(|index| (index, self.plan.arrival(index))).collect()
    }

    fn request(&self, arrivals: &[(u64, Arrival)]) -> Request<http_body_util::Full<Bytes>> {
        let mut body = Vec::with_capacity(BODY_BYTES * arrivals.len());
        match arrivals {
            [(index, arrival)] => self.plan.write(*index, *arrival, &mut body),
            arrivals => {
                let mut before = b'[';
                for (index, arrival) in arrivals {
                    body.push(before);
                    self.plan.write(*index, *arrival, &mut body);
                    before = b',';
                }
                body.push(b']');
            }
        }
        self.target.request(Method::POST, self.uri.clone(), body.into())
    }

    fn note(&self, times: Times, arrivals: &[(u64, Arrival)], answer: &Answer) {
        let statuses = statuses(answer, arrivals.len());
        let mut figures = self.record.figures();
        figures.request(times, self.batch);
        for ((index, arrival), status) in arrivals.iter().zip(statuses) {
            self.record.answer(&mut figures, times, *index, (*arrival, status));
        }
    }
}

/// What became of one request.
enum Attempt {
    Answered,
    /// Nobody knows; the connection is of no more use.
    Failed,
    /// Nothing of it was written: it may be sent over another connection.
    Held,
}

/// The answer to a batch.
#[derive(Deserialize)]
struct BatchAnswer<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

/// The answer to one payment of a batch: a word, or the number of a problem document.
#[derive(Deserialize)]
struct ItemAnswer {
    status: Option<ItemStatus>,
    #[serde(default)]
    replayed: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ItemStatus {
    Number(u16),
    Word(String),
}

/// The status of each payment, as if it had been posted alone.
pub(super) fn statuses(answer: &Answer, payments: usize) -> Vec<u16> {
    let whole = vec![answer.status; payments];
    if payments == 1 || answer.status != 200 {
        return whole;
    }
    match serde_json::from_slice::<BatchAnswer<'_>>(&answer.body) {
        Ok(answer) if answer.results.len() == payments => {
            answer.results.iter().map(|item| item_status(item)).collect()
        }
        // A batch whose answer cannot be read may have been taken in part.
        Ok(_) | Err(_) => vec![UNREADABLE; payments],
    }
}

/// Stands for a batch's answer that could not be read; its payments are of unknown fate.
const UNREADABLE: u16 = 599;

fn item_status(item: &RawValue) -> u16 {
    let Ok(item) = serde_json::from_str::<ItemAnswer>(item.get()) else { return UNREADABLE };
    match item.status {
        Some(ItemStatus::Number(status)) => status,
        Some(ItemStatus::Word(word)) if word == "replayed" || item.replayed => 200,
        Some(ItemStatus::Word(word)) if word == "accepted" => 202,
        Some(ItemStatus::Word(_)) | None => 422,
    }
}
