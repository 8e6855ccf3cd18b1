//! Proves that the dashboards and alerts have something to show: starts a private
//! paystream, a receiver of its telemetry and a Prometheus, sends payments for a
//! minute, and asks Prometheus every query of every panel and what every rule
//! looks at. `make observe` runs it. Needs `prometheus`; has no Grafana, no Tempo
//! and no collector, so searches for traces are not asked.

#![allow(unreachable_pub, reason = "a program of one crate that nobody names")]
#![allow(clippy::unwrap_used, reason = "what it shares with the tests fails as they do")]

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use paystream::{clock, telemetry::catalog::METRICS};
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

#[path = "../tests/it/otlp/mod.rs"]
#[allow(dead_code, reason = "the tests look at what is kept; this program shows it")]
mod otlp;
#[path = "../tests/it/observability/queries.rs"]
#[allow(dead_code, reason = "the tests judge queries; this program asks them")]
mod queries;
#[path = "../tests/it/observability/sources.rs"]
#[allow(dead_code, reason = "the tests judge panels; this program asks for them")]
mod sources;

use sources::Language;

/// How often Prometheus asks here; what Grafana then makes of its variable.
const SCRAPE_INTERVAL: &str = "2s";
const RATE_INTERVAL: &str = "20s";
/// Programs of this machine start within this.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// What only the collector or a failure of it brings forth.
const NOT_HERE: &[&str] = &["otelcol_"];
/// Loads a private service and asks Prometheus every query of the dashboards and
/// alerts.
#[derive(Parser)]
struct Arguments {
    /// Payments a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// For how many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The binary to try.
    #[arg(long, default_value = "target/debug/paystream")]
    binary: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/observe");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("what an earlier run left could not be removed")?;
    }
    fs::create_dir_all(&folder)?;
    eprintln!("observe: logs are in {}", folder.display());

    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sink = otlp::Sink::listen(any, any).await?;
    let binary = fs::canonicalize(&arguments.binary).context("there is no paystream binary")?;
    let prometheus = Prometheus::start(&folder, &sink.http_url()).await?;
    let service = Service::start(&binary, &folder, &sink.url()).await?;
    let end = service.load(&arguments).await?;
    // Exported, scraped, and evaluated by every rule.
    sleep(Duration::from_secs(10)).await;

    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["dashboard", "panel", "", "value"]);
    let range = format!("{}s", arguments.seconds);
    let mut report = Report { prometheus, at: end, range, table, faults: 0 };
    report.panels().await?;
    report.rules().await?;
    report.alerts().await?;
    report.catalogue().await?;
    Ok(report.print())
}

/// A port that is free now.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A program of this machine, which ends with us, and whose output is kept.
fn start(command: &mut Command, folder: &Path, log: &str) -> anyhow::Result<Child> {
    let log = File::create(folder.join(log))?;
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let child = command.stdout(log.try_clone()?).stderr(log).spawn();
    child.with_context(|| format!("could not start {:?}", command.as_std().get_program()))
}

/// Waits until something answers.
async fn answers(url: &str, child: &mut Child) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        if reqwest::get(url).await.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        ensure!(child.try_wait()?.is_none(), "{url}: it ended before it answered; see its log");
        ensure!(begun.elapsed() < START_TIMEOUT, "{url} does not answer");
        sleep(Duration::from_millis(100)).await;
    }
}

struct Prometheus {
    url: String,
    client: reqwest::Client,
    _child: Child,
}

impl Prometheus {
    async fn start(folder: &Path, sink: &str) -> anyhow::Result<Self> {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join(sources::RULES);
        let target = sink.trim_start_matches("http://");
        // JSON is YAML, too.
        let configuration = json!({
            "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": "5s"},
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": "paystream",
                "honor_labels": true,
                "static_configs": [{"targets": [target]}],
            }],
        });
        fs::write(folder.join("prometheus.yml"), configuration.to_string())?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("prometheus");
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus"]);
        command.arg(format!("--web.listen-address={address}"));
        let mut child = start(&mut command, folder, "prometheus.log")?;
        let url = format!("http://{address}");
        answers(&format!("{url}/-/ready"), &mut child).await?;
        Ok(Self { url, client: reqwest::Client::new(), _child: child })
    }

    /// The series that a query answers at a time.
    async fn series(&self, query: &str, at: i64) -> anyhow::Result<Vec<Value>> {
        let url = format!("{}/api/v1/query?time={at}&query={}", self.url, encoded(query));
        let answer: Value = self.client.get(url).send().await?.json().await?;
        ensure!(answer["status"] == "success", "{query}: {answer}");
        Ok(answer["data"]["result"].as_array().context("no result")?.clone())
    }

    /// Its values; those that are no number are left out.
    async fn ask(&self, query: &str, at: i64) -> anyhow::Result<Vec<f64>> {
        let series = self.series(query, at).await?;
        let values = series.iter().filter_map(|series| series["value"][1].as_str()?.parse().ok());
        Ok(values.filter(|value: &f64| !value.is_nan()).collect())
    }
}

/// A query as part of an address.
fn encoded(query: &str) -> String {
    percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC).to_string()
}

struct Service {
    binary: PathBuf,
    folder: PathBuf,
    url: String,
    _child: Child,
}

impl Service {
    /// `paystream dev`, which tells the sink of itself.
    async fn start(binary: &Path, folder: &Path, sink: &str) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PAYSTREAM_")) {
            command.env_remove(name);
        }
        command
            .arg("dev")
            .env("PAYSTREAM_BIND", &address)
            .env("PAYSTREAM_TRACE_RATIO", "0.1")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink)
            .env("OTEL_METRIC_EXPORT_INTERVAL", "2000");
        let mut child = start(&mut command, folder, "paystream.log")?;
        let url = format!("http://{address}");
        answers(&format!("{url}/readyz"), &mut child).await?;
        Ok(Self { binary: binary.into(), folder: folder.into(), url, _child: child })
    }

    /// Sends payments; says when the last of them fell due. Some come twice and
    /// some are wrong, as in life.
    async fn load(&self, arguments: &Arguments) -> anyhow::Result<i64> {
        let Arguments { rate, seconds, .. } = arguments;
        eprintln!("observe: sending {rate} payments a second for {seconds} s");
        let mut command = Command::new(&self.binary);
        command
            .args(["load", "--url", &self.url, "--duplicates", "1", "--invalid", "1"])
            .args(["--rate", &rate.to_string(), "--duration", &format!("{seconds}s")])
            .args(["--no-wait", "--json"]);
        let mut child = start(&mut command, &self.folder, "load.log")?;
        let status = child.wait().await?;
        ensure!(status.success(), "the load ended with {status}; see load.log");
        Ok(clock::system().timestamp())
    }
}

/// What was asked and what came of it.
struct Report {
    prometheus: Prometheus,
    at: i64,
    range: String,
    table: Table,
    faults: usize,
}

impl Report {
    /// Asks every query of every panel.
    async fn panels(&mut self) -> anyhow::Result<()> {
        for panel in sources::panels() {
            for (query, letter) in panel.queries.iter().zip('A'..) {
                let title = if panel.queries.len() > 1 {
                    format!("{} ({letter})", panel.title)
                } else {
                    panel.title.clone()
                };
                let text = sources::filled_in(&query.text, RATE_INTERVAL, &self.range);
                match query.language {
                    Language::PromQl => self.ask(&panel.board, &title, &text).await?,
                    Language::TraceQl | Language::ServiceMap => {
                        self.note(&panel.board, &title, "not asked", "needs Tempo");
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks for what every rule looks at: an alert that does not fire answers
    /// nothing, and one that looks at nothing never fires.
    async fn rules(&mut self) -> anyhow::Result<()> {
        for rule in sources::rules() {
            for input in queries::inputs(&queries::parsed(&rule.expr)) {
                // An hour ago there was nothing yet.
                let query = input.to_string().replace(" offset 1h", "");
                self.ask("alerts", &rule.name, &query).await?;
            }
        }
        Ok(())
    }

    /// Asks for every metric of the catalogue: a query that reads 0 for want of one
    /// would not tell.
    async fn catalogue(&mut self) -> anyhow::Result<()> {
        for metric in METRICS {
            let name = metric.prometheus_name();
            let query = format!("count({{__name__=~\"{name}(_count)?\"}})");
            self.ask("catalogue", metric.name, &query).await?;
        }
        Ok(())
    }

    /// Ordinary load raises no alert.
    async fn alerts(&mut self) -> anyhow::Result<()> {
        let firing = self.prometheus.series("ALERTS{alertstate=\"firing\"}", self.at).await?;
        for alert in firing {
            self.faults += 1;
            let name = alert["metric"]["alertname"].as_str().unwrap_or_default();
            self.note("alerts", name, "FIRES", &alert["metric"].to_string());
        }
        Ok(())
    }

    async fn ask(&mut self, place: &str, name: &str, query: &str) -> anyhow::Result<()> {
        let values = self.prometheus.ask(query, self.at).await?;
        if let Some(first) = values.first() {
            let more = values.len() - 1;
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            self.note(place, name, "answered", &format!("{first}{more}"));
        } else if NOT_HERE.iter().any(|start| query.contains(start)) {
            self.note(place, name, "not asked", "needs the collector");
        } else {
            self.faults += 1;
            self.note(place, name, "NOTHING", query);
        }
        Ok(())
    }

    fn note(&mut self, place: &str, name: &str, answered: &str, value: &str) {
        self.table.add_row([place, name, answered, value]);
    }

    #[expect(clippy::print_stdout, reason = "it is what the program is for")]
    fn print(&self) -> ExitCode {
        println!("{}", self.table);
        println!("{} asked for, {} at fault", self.table.row_count(), self.faults);
        if self.faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
