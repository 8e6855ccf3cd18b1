//! The service's HTTP API, as far as a run needs it, over one pool of keep-alive connections.
//! Tells a request that was never sent from one of unknown outcome. Never follows redirects.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use anyhow::{Context as _, anyhow, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Uri,
    body::Bytes,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rust_decimal::Decimal;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::tls::ClientTls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Seeding 100,000 customers or counting a large ledger takes its time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CUSTOMERS_PAGE: usize = 1_000;
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// The most references one lookup may name.
pub(super) const LOOKUP_MAX: usize = 1_000;

/// Where the service is, and what every request to it carries.
#[derive(Debug, Clone)]
pub(super) struct Api {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    headers: HeaderMap,
}

#[derive(Debug)]
pub(super) struct ApiAnswer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// No connection could be made, so nothing was sent.
    NotSent(String),
    /// Nobody knows whether the service acted on it.
    Unknown(String),
}

#[derive(Debug, Deserialize)]
struct Customers {
    customers: Vec<Customer>,
    total: u64,
}

#[derive(Debug, Deserialize)]
struct Customer {
    customer_id: String,
    total_paid: Decimal,
    credit: Decimal,
}

/// What the service says of its backlog.
#[derive(Debug, Deserialize)]
pub(super) struct Stats {
    pub(super) totals: Totals,
    backlog: Backlog,
}

#[derive(Debug, Deserialize)]
pub(super) struct Totals {
    pub(super) payments: u64,
}

#[derive(Debug, Deserialize)]
struct Backlog {
    lag: u64,
    pending: u64,
}

impl Stats {
    /// Payments accepted and not yet settled.
    pub(super) fn backlog(&self) -> u64 {
        self.backlog.lag + self.backlog.pending
    }
}

/// Where a payment is; its status is `applied`, `accepted`, `unknown`, or another outcome.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FoundPayment {
    pub(super) transaction_reference: String,
    pub(super) status: String,
    pub(super) customer_id: Option<String>,
    pub(super) transaction_amount: Option<Decimal>,
    pub(super) sequence: Option<i64>,
    pub(super) received_at: Option<String>,
    pub(super) processed_at: Option<String>,
}

#[derive(Deserialize)]
struct LookedUp {
    payments: Vec<FoundPayment>,
}

impl Api {
    pub(super) fn new(
        url: &str,
        token: Option<&SecretString>,
        tls: &ClientTls,
    ) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("could not read the URL {url}"))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        ensure!(["http", "https"].contains(&scheme), "{url} must begin with http:// or https://");
        ensure!(
            scheme == "http" || tls.ca_file.is_some(),
            "{url} needs --ca-file: the authorities that its certificate may come from"
        );
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            let value = format!("Bearer {}", token.expose_secret());
            let mut value = HeaderValue::from_str(&value).context("could not use --token")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls.config()?);
        let connector = https.https_or_http().enable_http1().wrap_connector(connector);
        // It sends again only what it had not begun to write when its connection closed.
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, base: url.trim_end_matches('/').to_owned(), headers })
    }

    /// Sends one request and reads its whole answer.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<ApiAnswer, NoAnswer> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        let uri = format!("{}{path}", self.base).parse();
        *request.uri_mut() =
            uri.map_err(|_| NoAnswer::NotSent("not a valid address".to_owned()))?;
        request.headers_mut().clone_from(&self.headers);
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| {
                let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                if error.is_connect() { NoAnswer::NotSent(cause) } else { NoAnswer::Unknown(cause) }
            })?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| NoAnswer::Unknown(error.to_string()))?.to_bytes();
            Ok(ApiAnswer { status, body })
        };
        let answer = tokio::time::timeout(timeout, exchange).await;
        answer.unwrap_or_else(|_| Err(NoAnswer::Unknown("not answered in time".to_owned())))
    }

    /// What each customer has paid in all, credit included.
    pub(super) async fn paid(&self) -> anyhow::Result<BTreeMap<String, Decimal>> {
        let mut all = BTreeMap::new();
        let mut offset = 0;
        loop {
            let path = format!("/api/v1/customers?limit={CUSTOMERS_PAGE}&offset={offset}");
            let page: Customers = self
                .call(Method::GET, &path, Bytes::new())
                .await
                .context("could not list customers")?;
            offset += page.customers.len();
            let is_last = page.customers.is_empty() || offset as u64 >= page.total;
            let paid = |one: Customer| (one.customer_id, one.total_paid + one.credit);
            all.extend(page.customers.into_iter().map(paid));
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Makes sure that the first `count` customers exist.
    pub(super) async fn seed_customers(&self, count: u32) -> anyhow::Result<()> {
        let body = json!({ "count": count }).to_string();
        let answer = self.call(Method::POST, "/api/v1/admin/seed-customers", body.into()).await;
        answer.map(|_: serde_json::Value| ()).context("could not seed customers")
    }

    pub(super) async fn stats(&self) -> anyhow::Result<Stats> {
        let answer = self.call(Method::GET, "/api/v1/admin/stats", Bytes::new()).await;
        answer.context("could not read the statistics")
    }

    /// Where the payments of these references are, in the order of the references.
    pub(super) async fn lookup(&self, references: &[String]) -> anyhow::Result<Vec<FoundPayment>> {
        let body = json!({ "transaction_references": references }).to_string();
        let answer = self.call(Method::POST, "/api/v1/payments/lookup", body.into()).await;
        let found = answer.map(|answer: LookedUp| answer.payments);
        let found = found.context("could not look payments up")?;
        ensure!(
            found.iter().map(|found| &found.transaction_reference).eq(references),
            "the lookup answered for other references than it was asked for"
        );
        Ok(found)
    }

    /// Every call here may be made twice; so one that finds no service is made again.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let mut attempt = 1;
        loop {
            let what = format!("{method} {path}");
            match self.send(method.clone(), path, body.clone(), ANSWER_TIMEOUT).await {
                Ok(ApiAnswer { status: 200..=299, body }) => {
                    let answer = serde_json::from_slice(&body);
                    return answer.context("could not understand the service's answer");
                }
                Ok(ApiAnswer { status: 503, .. }) if attempt < ATTEMPTS => {}
                Ok(ApiAnswer { status, body }) => {
                    let body = String::from_utf8_lossy(&body);
                    bail!("{what} was answered {status}: {}", body.trim());
                }
                Err(_) if attempt < ATTEMPTS => {}
                Err(NoAnswer::NotSent(why)) => bail!("could not connect to {}: {why}", self.base),
                Err(NoAnswer::Unknown(why)) => return Err(anyhow!("{what} failed: {why}")),
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
