//! The few calls beside the payments themselves: customers, statistics, lookups. One
//! connection, opened again when it was closed. Never posts a payment.

use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::{Method, body::Bytes};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::connection::{Answer, Body, Connection, Failure, Target};

/// Seeding 100,000 customers or counting a large ledger takes its time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CUSTOMERS_PAGE: usize = 1_000;
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// The most references one lookup may name.
pub(super) const LOOKUP_MAX: usize = 1_000;

/// The service's API, as far as the audit needs it.
#[derive(Debug)]
pub(super) struct Api {
    target: Target,
    connection: Option<Connection>,
}

/// Money as the API writes it: a string with two decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Money(pub(super) Decimal);

impl TryFrom<String> for Money {
    type Error = rust_decimal::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Decimal::from_str_exact(&text).map(Self)
    }
}

impl From<Money> for String {
    fn from(Money(amount): Money) -> Self {
        amount.to_string()
    }
}

/// A customer as the list of customers has it.
#[derive(Debug, Deserialize)]
pub(super) struct Customer {
    pub(super) customer_id: String,
    pub(super) total_paid: Money,
    pub(super) credit: Money,
}

#[derive(Debug, Deserialize)]
struct Customers {
    customers: Vec<Customer>,
    total: u64,
}

/// What the service says of its backlog.
#[derive(Debug, Deserialize)]
pub(super) struct Stats {
    totals: Totals,
    partitions: Vec<Partition>,
}

#[derive(Debug, Deserialize)]
struct Totals {
    payments: u64,
}

#[derive(Debug, Deserialize)]
struct Partition {
    /// Unknown to Redis in rare cases, which is not the same as none.
    lag: Option<u64>,
    pending: u64,
}

impl Stats {
    pub(super) fn payments(&self) -> u64 {
        self.totals.payments
    }

    /// Payments accepted and not yet settled; `None` where the service does not know.
    pub(super) fn backlog(&self) -> Option<u64> {
        self.partitions.iter().map(|partition| Some(partition.lag? + partition.pending)).sum()
    }
}

impl FoundStatus {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Recorded => "recorded",
            Self::Suspense => "suspense",
            Self::RefundMarked => "refund_marked",
            Self::Rejected => "rejected",
            Self::DeadLettered => "dead_lettered",
            Self::Discarded => "discarded",
            Self::Parked => "parked",
            Self::Accepted => "accepted",
            Self::Unknown => "unknown",
            Self::Other => "other",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Found {
    pub(super) transaction_reference: String,
    pub(super) status: FoundStatus,
    pub(super) customer_id: Option<String>,
    pub(super) transaction_amount: Option<Money>,
    pub(super) sequence: Option<i64>,
    pub(super) received_at: Option<String>,
    pub(super) processed_at: Option<String>,
}

/// The states in which a payment can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FoundStatus {
    Applied,
    Recorded,
    Suspense,
    RefundMarked,
    Rejected,
    DeadLettered,
    Discarded,
    Parked,
    /// In the stream, not yet settled.
    Accepted,
    /// Nowhere.
    Unknown,
    /// A state that this release of the load generator does not know.
    #[serde(other)]
    Other,
}

#[derive(Serialize)]
struct Lookup<'a> {
    transaction_references: &'a [String],
}

#[derive(Deserialize)]
struct LookedUp {
    payments: Vec<Found>,
}

impl Api {
    pub(super) fn new(target: Target) -> Self {
        Self { target, connection: None }
    }

    pub(super) async fn customers(&mut self) -> anyhow::Result<Vec<Customer>> {
        let mut all = Vec::new();
        loop {
            let path = format!("/api/v1/customers?limit={CUSTOMERS_PAGE}&offset={}", all.len());
            let page: Customers = self.get(&path).await.context("could not list customers")?;
            let is_last = page.customers.is_empty();
            all.extend(page.customers);
            if is_last || all.len() as u64 >= page.total {
                return Ok(all);
            }
        }
    }

    /// Makes sure that the first `count` customers exist.
    pub(super) async fn seed_customers(&mut self, count: u32) -> anyhow::Result<()> {
        let body = serde_json::json!({ "count": count }).to_string();
        self.call(Method::POST, "/api/v1/admin/seed-customers", body.into())
            .await
            .map(drop)
            .context("could not seed customers")
    }

    pub(super) async fn stats(&mut self) -> anyhow::Result<Stats> {
        self.get("/api/v1/admin/stats").await.context("could not read the statistics")
    }

    /// Where the payments of these references are, in the order of the references.
    pub(super) async fn lookup(&mut self, references: &[String]) -> anyhow::Result<Vec<Found>> {
        let body = serde_json::to_vec(&Lookup { transaction_references: references })?;
        let answer = self
            .call(Method::POST, "/api/v1/payments/lookup", body.into())
            .await
            .context("could not look payments up")?;
        let found = parse::<LookedUp>(&answer)?.payments;
        let asked = references.iter();
        if found.len() != references.len()
            || !asked.zip(&found).all(|(asked, found)| *asked == found.transaction_reference)
        {
            bail!("the lookup answered for other references than it was asked for");
        }
        Ok(found)
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        parse(&self.call(Method::GET, path, Bytes::new()).await?)
    }

    /// Every call here may be made twice; so one that finds no service is made again.
    async fn call(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Vec<u8>> {
        let mut attempts = 1;
        loop {
            let attempt = self.attempt(method.clone(), path, body.clone());
            let error = match tokio::time::timeout(ANSWER_TIMEOUT, attempt).await {
                Ok(Ok(Answer { status: 200..=299, body })) => return Ok(body),
                Ok(Ok(Answer { status: 503, .. })) if attempts < ATTEMPTS => None,
                Ok(Ok(Answer { status, body })) => {
                    let body = String::from_utf8_lossy(&body);
                    bail!("{method} {path} was answered {status}: {}", body.trim());
                }
                Ok(Err(error)) => Some(error),
                Err(_) => Some(anyhow::anyhow!("{method} {path} was not answered in time")),
            };
            self.connection = None;
            match error {
                Some(error) if attempts >= ATTEMPTS => return Err(error),
                Some(_) | None => attempts += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_open() => connection,
            Some(_) | None => Connection::open(&self.target).await?,
        };
        let request = self.target.request(method, self.target.uri(path)?, body);
        let answer = match connection.exchange(request, Body::Keep).await {
            Ok(answer) => answer,
            Err(Failure::NotSent) => bail!("the connection was closed"),
            Err(Failure::Unknown(reason)) => bail!("the connection was lost: {reason}"),
        };
        self.connection = Some(connection);
        Ok(answer)
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).context("could not understand the service's answer")
}
