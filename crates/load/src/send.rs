//! The sending: each task takes the next request that is due, sends it, and notes the answer.
//! Latency counts from when the request was due, so that a stall is charged to every request it
//! delayed. Never sends a request again whose outcome is unknown.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hyper::{Method, body::Bytes};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    api::{Api, ApiAnswer, NoAnswer},
    args::LoadArgs,
    plan::{Arrival, Plan},
    record::{RunFigures, Times},
    schedule::Pacer,
};

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// One payment as JSON is about so long.
const BODY_BYTES: usize = 208;

/// Everything that the tasks share.
#[derive(Debug)]
pub(super) struct Sender {
    api: Api,
    pub(super) plan: Plan,
    pub(super) pacer: Pacer,
    figures: Mutex<RunFigures>,
    batch: u64,
    connections: u32,
    timeout: Duration,
    /// Cancelled when nothing more is to be sent, due or not.
    halt: CancellationToken,
}

impl Sender {
    pub(super) fn new(args: &LoadArgs, api: Api, plan: Plan, pacer: Pacer) -> anyhow::Result<Self> {
        let batch = u64::from(args.batch);
        Ok(Self {
            api,
            plan,
            figures: Mutex::new(RunFigures::new(pacer.schedule.requests * batch)?),
            pacer,
            batch,
            connections: args.connections,
            timeout: args.timeout,
            halt: CancellationToken::new(),
        })
    }

    /// The figures, for a moment. Held only to add to them or to read them.
    pub(super) fn figures(&self) -> MutexGuard<'_, RunFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many payments fall due in all.
    pub(super) fn due(&self) -> u64 {
        self.pacer.schedule.requests * self.batch
    }

    /// Sends nothing more; requests under way are still waited for.
    pub(super) fn stop(&self) {
        self.halt.cancel();
        self.pacer.stop();
    }

    /// Sends until every request is sent or [`Sender::stop`] is called, and all answers are
    /// there or given up.
    pub(super) async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for _ in 0..self.connections {
            let sending = Arc::clone(&self);
            tasks.spawn(async move {
                while let Some(request) = sending.pacer.next().await {
                    sending.send(request).await;
                }
            });
        }
        let sending = Arc::clone(&self);
        tasks.spawn_blocking(move || sending.pacer.run());
        while let Some(ended) = tasks.join_next().await {
            ended.context("a sending task failed")?;
        }
        Ok(())
    }

    /// Sends one request, as soon as there is a connection.
    async fn send(&self, request: u64) {
        let path = if self.batch == 1 { "/api/v1/payments" } else { "/api/v1/payments/batch" };
        let due = self.pacer.schedule.due(request);
        let first = request * self.batch;
        let arrivals: Vec<(u64, Arrival)> =
            (first..first + self.batch).map(|index| (index, self.plan.arrival(index))).collect();
        let body = self.body(&arrivals);
        let mut pause = PAUSE_MIN;
        while !self.halt.is_cancelled() {
            let sent = Instant::now();
            let answer = self.api.send(Method::POST, path, body.clone(), self.timeout).await;
            let times = Times { due, sent, ended: Instant::now() };
            let Err(NoAnswer::NotSent(_)) = answer else {
                return self.note(times, &arrivals, answer);
            };
            self.figures().counts.connect_failures += 1;
            tokio::select! {
                () = self.halt.cancelled() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    /// The request that a payment is sent in.
    pub(super) fn request_of(&self, index: u64) -> u64 {
        index / self.batch
    }

    fn body(&self, arrivals: &[(u64, Arrival)]) -> Bytes {
        let mut body = Vec::with_capacity(BODY_BYTES * arrivals.len());
        let mut before = b'[';
        for (index, arrival) in arrivals {
            if self.batch > 1 {
                body.push(before);
            }
            self.plan.write(*index, *arrival, &mut body);
            before = b',';
        }
        if self.batch > 1 {
            body.push(b']');
        }
        body.into()
    }

    fn note(&self, times: Times, arrivals: &[(u64, Arrival)], answer: Result<ApiAnswer, NoAnswer>) {
        let statuses = match &answer {
            Ok(answer) => statuses(answer, arrivals.len()).into_iter().map(Ok).collect(),
            Err(NoAnswer::NotSent(reason) | NoAnswer::Unknown(reason)) => {
                vec![Err(reason.as_str()); arrivals.len()]
            }
        };
        let mut figures = self.figures();
        figures.request(times, self.batch);
        for (arrival, status) in arrivals.iter().zip(statuses) {
            figures.payment(times, *arrival, status);
        }
    }
}

/// The status of each payment, as if it had been posted alone.
pub(super) fn statuses(answer: &ApiAnswer, payments: usize) -> Vec<u16> {
    if payments == 1 || answer.status != 200 {
        return vec![answer.status; payments];
    }
    let read: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match read["results"].as_array() {
        Some(items) if items.len() == payments => items.iter().map(item_status).collect(),
        // A batch whose answer cannot be read may have been taken in part.
        Some(_) | None => vec![UNREADABLE; payments],
    }
}

/// Stands for a batch's answer that could not be read; its payments are of unknown fate.
const UNREADABLE: u16 = 599;

/// Of a word, or of the number of a problem document.
fn item_status(item: &Value) -> u16 {
    let status = &item["status"];
    if let Some(status) = status.as_u64() {
        return u16::try_from(status).unwrap_or(UNREADABLE);
    }
    match status.as_str() {
        Some("replayed") => 200,
        Some(_) if item["replayed"] == true => 200,
        Some("accepted") => 202,
        Some(_) | None => 422,
    }
}
