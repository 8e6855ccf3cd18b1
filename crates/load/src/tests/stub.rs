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

/// How the peer misbehaves, at every n-th payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Closes the connection instead of answering a payment, which it took.
    Silent(usize),
    /// Closes the connection after an answer, without a word.
    HangsUp(usize),
    /// Accepts a payment without keeping it.
    Loses(usize),
    /// Applies a payment twice.
    Doubles(usize),
    /// Answers so late.
    Stalls(usize, Duration),
    /// Reports a backlog that never shrinks.
    Stuck,
}

/// What the peer knows, and how it misbehaves.
#[derive(Debug)]
struct Books {
    fault: Fault,
    posts: usize,
    payments: BTreeMap<String, Value>,
    customers: BTreeMap<String, Decimal>,
}

/// A running peer; it ends with this value.
#[derive(Debug)]
pub(super) struct Stub {
    pub(super) url: String,
    _serving: JoinSet<()>,
}

impl Stub {
    pub(super) async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (payments, customers) = (BTreeMap::new(), BTreeMap::new());
        let books = Arc::new(Mutex::new(Books { fault, posts: 0, payments, customers }));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let conversation = converse(stream, Arc::clone(&books));
                // It ends when the other side hangs up.
                connections.spawn(async { drop(conversation.await) });
            }
        });
        Self { url, _serving: serving }
    }
}

async fn converse(stream: TcpStream, books: Arc<Mutex<Books>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (target, body) = receive(&mut stream).await?;
        let (status, answer, fault) = books.lock().unwrap().answer(&target, &body);
        if matches!(fault, Fault::Silent(_)) {
            return Ok(());
        }
        if let Fault::Stalls(_, stall) = fault {
            tokio::time::sleep(stall).await;
        }
        let body = answer.to_string();
        let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all((head + &body).as_bytes()).await?;
        if matches!(fault, Fault::HangsUp(_)) {
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

impl Books {
    /// Status and body, and how they are misdelivered.
    fn answer(&mut self, target: &str, body: &Value) -> (u16, Value, Fault) {
        if target == "/api/v1/payments" {
            let (status, fault) = self.post(body);
            return (status, json!({}), fault);
        }
        (200, self.call(target, body), Fault::None)
    }

    fn post(&mut self, payment: &Value) -> (u16, Fault) {
        self.posts += 1;
        let is_hit = match self.fault {
            Fault::None | Fault::Stuck => false,
            Fault::Stalls(nth, _) => self.posts == nth,
            Fault::Silent(nth) | Fault::HangsUp(nth) | Fault::Loses(nth) | Fault::Doubles(nth) => {
                self.posts.is_multiple_of(nth)
            }
        };
        let fault = if is_hit { self.fault } else { Fault::None };
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
            None if matches!(fault, Fault::Loses(_)) => 202,
            None => {
                let times = if matches!(fault, Fault::Doubles(_)) { 2 } else { 1 };
                let paid = self.customers.entry(text("customer_id")).or_default();
                *paid += amount.parse::<Decimal>().unwrap() * Decimal::from(times);
                self.payments.insert(reference, payment.clone());
                202
            }
        };
        (status, fault)
    }

    fn call(&mut self, target: &str, body: &Value) -> Value {
        let path = target.split('?').next().unwrap();
        match path {
            "/api/v1/admin/stats" => json!({
                "totals": { "payments": self.payments.len() },
                "backlog": { "lag": u64::from(self.fault == Fault::Stuck), "pending": 0 },
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
                    .map(|payment| match self.post(payment).0 {
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
        }
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
