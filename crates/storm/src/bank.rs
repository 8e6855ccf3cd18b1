//! The clients. Each pays for one customer, one payment or one batch at a time, and sends it again
//! until it is answered; sometimes it sends one twice, or to both gateways at once. Each keeps its
//! own record of what it sent and was answered. Never looks at a store.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use paystream_invariants::{Answer, Place, Sent};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// A bank gives up on a request after this, and sends it again.
const PATIENCE: Duration = Duration::from_secs(7);
const PAUSE: Duration = Duration::from_millis(100);
const BATCH_MAX: usize = 12;

/// Both gateways, for whoever speaks to them.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    pub(crate) gateways: Vec<String>,
}

impl Api {
    pub(crate) fn new(gateways: Vec<String>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PATIENCE));
        Self { client: Client::builder(TokioExecutor::new()).build(connector), gateways }
    }

    /// The status and the body of an answer.
    pub(crate) async fn send(
        &self,
        gateway: usize,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let base = self.gateways.get(gateway % self.gateways.len()).context("no gateway")?;
        let body = Bytes::from(body.map_or_else(String::new, Value::to_string));
        let request = Request::builder().method(method).uri(format!("{base}{path}"));
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(body))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        timeout(PATIENCE, exchange).await.context("not answered in time")?
    }
}

/// What all clients have been told, and when payments were taken.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) sent: BTreeMap<String, Sent>,
    pub(crate) accepted: u64,
    pub(crate) replayed: u64,
    pub(crate) refused: u64,
    /// Answers that no client should ever see.
    pub(crate) strange: Vec<String>,
    /// When each partition took a payment last.
    pub(crate) taken_at: BTreeMap<u32, Instant>,
    /// Since when, and for how long, a partition took none.
    pub(crate) gaps: Vec<(Instant, Duration)>,
}

/// Pauses shorter than this are the load's own.
pub(crate) const GAP_MIN: Duration = Duration::from_millis(250);

#[derive(Clone, Default)]
pub(crate) struct Records(Arc<Mutex<Record>>);

impl Records {
    /// For a moment.
    pub(crate) fn hold(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client is.
pub(crate) struct Bank {
    pub(crate) number: u32,
    pub(crate) customer: String,
    pub(crate) api: Api,
    pub(crate) records: Records,
    pub(crate) seed: u64,
    /// How long it thinks between two payments, at most, in milliseconds.
    pub(crate) thinks: u64,
}

/// One payment that is to be answered.
#[derive(Clone)]
struct Due {
    reference: String,
    body: Value,
}

impl Bank {
    /// Pays until `stop`, and then once through each gateway: whatever only a gateway knows to have
    /// been given out is compared with what Redis has.
    pub(crate) async fn run(self, stop: watch::Receiver<bool>) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ u64::from(self.number));
        let (mut turn, mut count) = (0, 0);
        while !*stop.borrow() {
            let size = match random.random_range(0..10) {
                0 => random.random_range(2..=BATCH_MAX),
                _ => 1,
            };
            let due: Vec<Due> = (0..size)
                .map(|_| {
                    count += 1;
                    self.payment(count, random.random_range(1..=50_000))
                })
                .collect();
            let gateway: usize = random.random_range(0..self.api.gateways.len());
            match &*due {
                [one] if random.random_ratio(1, 40) => {
                    // Somebody has pressed the button twice.
                    let other = self.until_answered(&due, gateway + 1);
                    let (first, second) = tokio::join!(self.until_answered(&due, gateway), other);
                    self.note(&mut turn, one, first.into_iter().chain(second));
                }
                _ => self.pay(&mut turn, &due, gateway).await,
            }
            if random.random_ratio(1, 30) {
                self.pay(&mut turn, &due, gateway + 1).await;
            }
            sleep(Duration::from_millis(random.random_range(0..=self.thinks))).await;
        }
        for gateway in 0..self.api.gateways.len() {
            count += 1;
            let last = [self.payment(count, 1)];
            self.pay(&mut turn, &last, gateway).await;
        }
    }

    fn payment(&self, count: u64, cents: i64) -> Due {
        let reference = format!("storm-{}-{count}", self.number);
        let body = json!({
            "customer_id": self.customer,
            "payment_status": "COMPLETE",
            "transaction_amount": format!("{}.{:02}", cents / 100, cents % 100),
            "transaction_date": "2025-11-07 14:54:16",
            "transaction_reference": reference,
        });
        let sent = Sent {
            reference: reference.clone(),
            client: self.number,
            customer: self.customer.clone(),
            cents,
            answers: Vec::new(),
        };
        self.records.hold().sent.insert(reference.clone(), sent);
        Due { reference, body }
    }

    async fn pay(&self, turn: &mut u64, due: &[Due], gateway: usize) {
        let places = self.until_answered(due, gateway).await;
        for (one, place) in due.iter().zip(places) {
            self.note(turn, one, std::iter::once(place));
        }
    }

    fn note(&self, turn: &mut u64, due: &Due, places: impl Iterator<Item = Place>) {
        let mut records = self.records.hold();
        for place in places {
            *turn += 1;
            if let Some(sent) = records.sent.get_mut(&due.reference) {
                sent.answers.push(Answer { turn: *turn, place });
            }
        }
    }

    /// Sends again, to one gateway after the other, until each is answered; says where they are.
    async fn until_answered(&self, due: &[Due], mut gateway: usize) -> Vec<Place> {
        let mut places = Vec::with_capacity(due.len());
        while let Some(rest) = due.get(places.len()..).filter(|rest| !rest.is_empty()) {
            let answered = match rest {
                [one] => self.send_one(one, gateway).await,
                many => self.send_batch(many, gateway).await,
            };
            if answered.is_empty() {
                gateway += 1;
                sleep(PAUSE).await;
            }
            places.extend(answered);
        }
        places
    }

    async fn send_one(&self, due: &Due, gateway: usize) -> Vec<Place> {
        let path = "/api/v1/payments";
        match self.api.send(gateway, Method::POST, path, Some(&due.body)).await {
            Ok((status @ (200 | 202), body)) => match place(&body) {
                Some(place) => {
                    self.taken(place, status == 202);
                    vec![place]
                }
                None => self.strange(&due.reference, status, &body),
            },
            Ok((429 | 500..=599, _)) | Err(_) => {
                self.records.hold().refused += 1;
                Vec::new()
            }
            Ok((status, body)) => self.strange(&due.reference, status, &body),
        }
    }

    /// What was taken of a batch, up to the first that was not.
    async fn send_batch(&self, due: &[Due], gateway: usize) -> Vec<Place> {
        let body: Value = due.iter().map(|one| one.body.clone()).collect();
        let path = "/api/v1/payments/batch";
        let answer = self.api.send(gateway, Method::POST, path, Some(&body)).await;
        let items = match &answer {
            Ok((200, body)) => body["results"].as_array(),
            Ok((429 | 500..=599, _)) | Err(_) => None,
            Ok((status, body)) => return self.strange(&due[0].reference, *status, body),
        };
        let Some(items) = items else {
            self.records.hold().refused += 1;
            return Vec::new();
        };
        let mut places = Vec::new();
        let mut refused = false;
        for (item, due) in items.iter().zip(due) {
            match (place(item), refused) {
                (Some(place), false) => {
                    self.taken(place, item["status"] == "accepted");
                    places.push(place);
                }
                // Nothing behind a payment that was refused may be taken.
                (Some(_), true) => return self.strange(&due.reference, 200, item),
                (None, _) => refused = true,
            }
        }
        places
    }

    /// Whatever was taken is answered again after an answer that came too late.
    fn taken(&self, place: Place, is_new: bool) {
        let now = Instant::now();
        let mut records = self.records.hold();
        *if is_new { &mut records.accepted } else { &mut records.replayed } += 1;
        if let Some(before) = records.taken_at.insert(place.partition, now)
            && now - before >= GAP_MIN
        {
            records.gaps.push((before, now - before));
        }
    }

    fn strange(&self, reference: &str, status: u16, body: &Value) -> Vec<Place> {
        self.records.hold().strange.push(format!("{reference} was answered {status}: {body}"));
        Vec::new()
    }
}

fn place(body: &Value) -> Option<Place> {
    let partition = u32::try_from(body["partition"].as_u64()?).ok()?;
    Some(Place { partition, sequence: body["sequence"].as_i64()? })
}
