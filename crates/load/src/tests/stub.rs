//! A peer for the tests: speaks as much of the service's API as the load generator uses, keeps
//! payments in memory, and misbehaves as told. Never used outside tests.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// How the peer misbehaves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manners {
    /// Closes the connection instead of answering every n-th payment, which it took.
    pub(super) silent_every: Option<usize>,
    /// Closes the connection after answering every n-th payment, without a word.
    pub(super) hangs_up_every: Option<usize>,
    /// Accepts every n-th payment without keeping it.
    pub(super) loses_every: Option<usize>,
    /// Applies every n-th payment twice.
    pub(super) doubles_every: Option<usize>,
    /// Answers this payment late.
    pub(super) stalls_at: Option<(usize, Duration)>,
    /// Reports a backlog that never shrinks.
    pub(super) is_stuck: bool,
}

/// What the peer knows.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) posts: usize,
    pub(super) payments: BTreeMap<String, Value>,
    customers: BTreeMap<String, Decimal>,
}

/// A running peer; it ends with this value.
#[derive(Debug)]
pub(super) struct Stub {
    pub(super) url: String,
    _serving: JoinSet<()>,
}

impl Stub {
    pub(super) async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let books = Arc::<Mutex<Books>>::default();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&books), manners));
            }
        });
        Self { url, _serving: serving }
    }
}

async fn serve(stream: TcpStream, books: Arc<Mutex<Books>>, manners: Manners) {
    // It ends when the other side hangs up.
    let _ = converse(stream, books, manners).await;
}

async fn converse(stream: TcpStream, books: Arc<Mutex<Books>>, manners: Manners) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (target, body) = receive(&mut stream).await?;
        let reply = if target == "/api/v1/payments" {
            books.lock().unwrap().post(&body, manners)
        } else {
            Reply::new(books.lock().unwrap().call(&target, &body, manners))
        };
        if let Some(stall) = reply.stall {
            tokio::time::sleep(stall).await;
        }
        let Some((status, body)) = reply.answer else { return Ok(()) };
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all((head + &body).as_bytes()).await?;
        if reply.hangs_up {
            return Ok(());
        }
    }
}

async fn receive(stream: &mut BufReader<TcpStream>) -> io::Result<(String, Value)> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let target = line.split(' ').nth(1).unwrap().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((target, serde_json::from_slice(&body).unwrap_or_default()))
}

type Answer = (u16, Value);

/// What is answered, when, and whether the connection is closed then.
struct Reply {
    answer: Option<Answer>,
    stall: Option<Duration>,
    hangs_up: bool,
}

impl Reply {
    fn new(answer: Answer) -> Self {
        Self { answer: Some(answer), stall: None, hangs_up: false }
    }
}

impl Books {
    fn post(&mut self, payment: &Value, manners: Manners) -> Reply {
        self.posts += 1;
        let is_every =
            |every: Option<usize>| every.is_some_and(|every| self.posts.is_multiple_of(every));
        let is_silent = is_every(manners.silent_every);
        let hangs_up = is_every(manners.hangs_up_every);
        let (is_lost, is_double) = (is_every(manners.loses_every), is_every(manners.doubles_every));
        let stall = manners.stalls_at.filter(|(at, _)| *at == self.posts).map(|(_, stall)| stall);

        let text = |field: &str| payment[field].as_str().unwrap().to_owned();
        let (reference, amount) = (text("transaction_reference"), text("transaction_amount"));
        let is_valid = amount.parse::<Decimal>().is_ok_and(|amount| {
            amount > Decimal::ZERO && amount.scale() <= 2 && !text("customer_id").contains(' ')
        }) && amount.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let status = match self.payments.get(&reference) {
            _ if !is_valid || text("payment_status") != "COMPLETE" => 422,
            _ if text("transaction_date") == "yesterday" => 422,
            Some(known) => {
                assert_eq!(known, payment, "a repeat is identical");
                200
            }
            None if is_lost => 202,
            None => {
                let times = if is_double { 2 } else { 1 };
                let paid = self.customers.entry(text("customer_id")).or_default();
                *paid += amount.parse::<Decimal>().unwrap() * Decimal::from(times);
                self.payments.insert(reference, payment.clone());
                202
            }
        };
        Reply { answer: (!is_silent).then(|| (status, json!({}))), stall, hangs_up }
    }

    fn call(&mut self, target: &str, body: &Value, manners: Manners) -> Answer {
        let path = target.split('?').next().unwrap();
        let answer = match path {
            "/api/v1/admin/stats" => json!({
                "totals": { "payments": self.payments.len() },
                "partitions": [{ "lag": u64::from(manners.is_stuck), "pending": 0 }],
            }),
            "/api/v1/admin/seed-customers" => {
                for number in 1..=body["count"].as_u64().unwrap() {
                    self.customers.entry(format!("GIG{number:05}")).or_default();
                }
                json!({})
            }
            "/api/v1/customers" => {
                let offset = target.rsplit_once('=').unwrap().1.parse().unwrap();
                let page = self.customers.iter().skip(offset).take(1000);
                let page: Vec<Value> = page
                    .map(|(id, paid)| {
                        json!({ "customer_id": id, "total_paid": paid.to_string(), "credit": "0.00" })
                    })
                    .collect();
                json!({ "customers": page, "total": self.customers.len() })
            }
            "/api/v1/payments/batch" => {
                let results: Vec<Value> = body
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|payment| match self.post(payment, manners).answer.unwrap().0 {
                        202 => json!({ "status": "accepted" }),
                        200 => json!({ "status": "accepted", "replayed": true }),
                        status => json!({ "status": status, "code": "invalid" }),
                    })
                    .collect();
                json!({ "results": results })
            }
            "/api/v1/payments/lookup" => {
                let references = body["transaction_references"].as_array().unwrap();
                let found: Vec<Value> = references.iter().map(|one| self.find(one)).collect();
                json!({ "payments": found })
            }
            other => panic!("no such endpoint: {other}"),
        };
        (200, answer)
    }

    fn find(&self, reference: &Value) -> Value {
        let Some(payment) = self.payments.get(reference.as_str().unwrap()) else {
            return json!({ "transaction_reference": reference, "status": "unknown" });
        };
        json!({
            "transaction_reference": reference,
            "status": "applied",
            "customer_id": payment["customer_id"],
            "transaction_amount": payment["transaction_amount"],
            "received_at": "2025-11-07T14:54:16.000100Z",
            "processed_at": "2025-11-07T15:54:16.002100+01:00",
        })
    }
}
