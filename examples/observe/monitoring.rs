//! The receiver of telemetry, Prometheus and Alertmanager, with the rules and routes as they are
//! committed, but ten times as fast: what takes ten minutes there is seen in one here. Says what
//! they answer; judges nothing.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use paystream::clock;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{
    otlp,
    programs::{answers, free_port, start},
    sources,
};

/// How often Prometheus asks here; what Grafana then makes of its variable.
const SCRAPE_INTERVAL: &str = "2s";
pub const RATE_INTERVAL: &str = "20s";
/// How much faster rules are here.
pub const FASTER: u64 = 10;
const ROUTES: &str = "alertmanager/alertmanager.yml";

pub struct Monitoring {
    pub sink: otlp::Sink,
    pub prometheus: Api,
    pub alertmanager: Api,
    _children: [Child; 2],
}

/// A program that answers in JSON.
pub struct Api {
    url: String,
    client: reqwest::Client,
}

impl Monitoring {
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::around(otlp::Sink::listen(any, any).await?, folder).await
    }

    /// The same receiver, and a Prometheus and an Alertmanager that know nothing of what was before.
    pub async fn anew(self, folder: &Path) -> anyhow::Result<Self> {
        let Self { sink, .. } = self;
        sink.answer(otlp::Manner::Prompt);
        Self::around(sink, folder).await
    }

    async fn around(sink: otlp::Sink, folder: &Path) -> anyhow::Result<Self> {
        let (alertmanager, routing) = start_alertmanager(folder).await?;
        let (prometheus, asking) = start_prometheus(folder, &sink, &alertmanager).await?;
        Ok(Self { sink, prometheus, alertmanager, _children: [routing, asking] })
    }

    /// Nothing is received any more, and Prometheus gets no answer.
    pub fn lose_telemetry(&self) {
        self.sink.answer(otlp::Manner::Gone);
    }

    /// The series that a query answers now.
    pub async fn series(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        self.series_at(query, clock::system().timestamp()).await
    }

    pub async fn series_at(&self, query: &str, at: i64) -> anyhow::Result<Vec<Value>> {
        let query =
            percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let answer = self.prometheus.get(&format!("/api/v1/query?time={at}&query={query}")).await?;
        ensure!(answer["status"] == "success", "{query}: {answer}");
        Ok(answer["data"]["result"].as_array().context("no result")?.clone())
    }
}

impl Api {
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.client.get(format!("{}{path}", self.url)).send().await?.json().await?)
    }
}

async fn start_prometheus(
    folder: &Path,
    sink: &otlp::Sink,
    alertmanager: &Api,
) -> anyhow::Result<(Api, Child)> {
    fs::write(folder.join("rules.yml"), faster(&sources::read(sources::RULES)))?;
    let (sink, manager) = (sink.http_url(), &alertmanager.url);
    let [sink, manager] = [&sink, manager].map(|url| url.trim_start_matches("http://"));
    // JSON is YAML, too.
    let configuration = json!({
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": "2s"},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [manager]}]}]},
        "scrape_configs": [{
            "job_name": "paystream",
            "honor_labels": true,
            "static_configs": [{"targets": [sink]}],
        }],
    });
    fs::write(folder.join("prometheus.yml"), configuration.to_string())?;
    let more = ["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus"];
    listening("prometheus", &more, folder).await
}

async fn start_alertmanager(folder: &Path) -> anyhow::Result<(Api, Child)> {
    let routes = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(ROUTES);
    let routes = format!("--config.file={}", routes.display());
    let more = [&routes, "--storage.path=alertmanager", "--cluster.listen-address="];
    listening("prometheus-alertmanager", &more, folder).await
}

/// A program of Prometheus' family, once it is ready.
async fn listening(
    program: &str,
    arguments: &[&str],
    folder: &Path,
) -> anyhow::Result<(Api, Child)> {
    let url = format!("http://127.0.0.1:{}", free_port()?);
    let mut command = Command::new(program);
    let address = url.trim_start_matches("http://");
    command.args(arguments).arg(format!("--web.listen-address={address}"));
    let mut child = start(&mut command, folder, &format!("{program}.log"))?;
    answers(&format!("{url}/-/ready"), &mut child).await?;
    Ok((Api { url, client: reqwest::Client::new() }, child))
}

/// Rules whose ranges, offsets and waits are a tenth as long.
fn faster(rules: &str) -> String {
    let mut made = String::with_capacity(rules.len());
    for line in rules.lines() {
        let waits = ["for:", "keep_firing_for:", "interval:"];
        if waits.iter().any(|wait| line.trim_start().trim_start_matches("- ").starts_with(wait)) {
            let (name, time) = line.split_once(':').unwrap_or((line, ""));
            made += &format!("{name}: {}\n", shortened(time.trim()));
            continue;
        }
        let mut rest = line;
        while let Some((before, behind)) = rest.split_once('[') {
            let (range, behind) = behind.split_once(']').unwrap_or((behind, ""));
            let parts: Vec<String> = range.split(':').map(shortened).collect();
            made += &format!("{before}[{}]", parts.join(":"));
            rest = behind;
        }
        match rest.split_once("offset ") {
            Some((before, behind)) => {
                let end = behind.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(behind.len());
                let (time, behind) = behind.split_at(end);
                made += &format!("{before}offset {}{behind}\n", shortened(time));
            }
            None => made += &format!("{rest}\n"),
        }
    }
    made
}

/// `5m` becomes `30s`. What is no time stays.
fn shortened(time: &str) -> String {
    let Some((number, unit)) = time.split_at_checked(time.len().saturating_sub(1)) else {
        return time.to_owned();
    };
    let milliseconds = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return time.to_owned(),
    };
    let number: Result<u64, _> = number.parse();
    number.map_or(time.to_owned(), |number| {
        // A range must hold some scrapes.
        format!("{}ms", (number * milliseconds / FASTER).max(5_000))
    })
}
