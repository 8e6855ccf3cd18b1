//! What was asked while all is well, and what came of it: every query of every panel, what every rule
//! looks at, every metric of the catalogue. Breaks nothing.

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use paystream::{clock, telemetry::catalog::METRICS};

use super::{
    monitoring::{Monitoring, RATE_INTERVAL},
    queries,
    sources::{self, Language},
};

/// What only the collector and its receivers bring forth,
const NOT_HERE: &[&str] =
    &["otelcol_", "redis_", "postgresql_", "nginx_", "system_", "httpcheck_", "paystream:front_up"];
/// and what is there only after a failure.
const NOT_YET: &[&str] =
    &["error_type!=", "STATUS_CODE_ERROR", "request_failed", "alertstate=\"firing\""];
/// What fires while all is well.
const ALWAYS: &str = "PaystreamWatchdog";

pub struct Report<'a> {
    monitoring: &'a Monitoring,
    at: i64,
    range: String,
    table: Table,
    faults: usize,
}

impl<'a> Report<'a> {
    /// Of now; `range` is the time that boards show.
    pub fn new(monitoring: &'a Monitoring, range: String) -> Self {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header(["dashboard", "panel", "", "value"]);
        Self { monitoring, at: clock::system().timestamp(), range, table, faults: 0 }
    }

    /// Asks every query of every panel.
    pub async fn panels(&mut self) -> anyhow::Result<()> {
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
    pub async fn rules(&mut self) -> anyhow::Result<()> {
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
    pub async fn catalogue(&mut self) -> anyhow::Result<()> {
        for metric in METRICS {
            let name = metric.prometheus_name();
            let query = format!("count({{__name__=~\"{name}(_count)?\"}})");
            self.ask("catalogue", metric.name, &query).await?;
        }
        Ok(())
    }

    /// Ordinary load raises no alert.
    pub async fn alerts(&mut self) -> anyhow::Result<()> {
        let query = format!("ALERTS{{alertstate=\"firing\",alertname!=\"{ALWAYS}\"}}");
        for alert in self.monitoring.series_at(&query, self.at).await? {
            let name = alert["metric"]["alertname"].as_str().unwrap_or_default();
            self.fault("alerts", name, "FIRES", &alert["metric"].to_string());
        }
        Ok(())
    }

    async fn ask(&mut self, place: &str, name: &str, query: &str) -> anyhow::Result<()> {
        let values = self.values(query).await?;
        if let Some(first) = values.first() {
            let more = values.len() - 1;
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            self.note(place, name, "answered", &format!("{first}{more}"));
        } else if NOT_HERE.iter().any(|part| query.contains(part)) {
            self.note(place, name, "not asked", "needs the collector");
        } else if NOT_YET.iter().any(|part| query.contains(part)) {
            self.note(place, name, "not asked", "needs a failure");
        } else {
            self.fault(place, name, "NOTHING", query);
        }
        Ok(())
    }

    /// The values that a query answers; those that are no number are left out.
    async fn values(&self, query: &str) -> anyhow::Result<Vec<f64>> {
        let series = self.monitoring.series_at(query, self.at).await?;
        let values = series.iter().filter_map(|series| series["value"][1].as_str()?.parse().ok());
        Ok(values.filter(|value: &f64| !value.is_nan()).collect())
    }

    /// The only value that a query answers, if it does.
    pub async fn one(&self, query: &str) -> anyhow::Result<f64> {
        Ok(self.values(query).await?.first().copied().unwrap_or(f64::NAN))
    }

    /// How many spans of this name were received.
    pub fn written_spans(&self, name: &str) -> usize {
        let spans = self.monitoring.sink.spans();
        spans.iter().filter(|span| span.name == name).count()
    }

    pub fn note(&mut self, place: &str, name: &str, answered: &str, value: &str) {
        self.table.add_row([place, name, answered, value]);
    }

    pub fn fault(&mut self, place: &str, name: &str, answered: &str, value: &str) {
        self.faults += 1;
        self.note(place, name, answered, value);
    }

    /// Answers how much was at fault.
    #[expect(clippy::print_stdout, reason = "it is what the program is for")]
    pub fn print(&self) -> usize {
        println!("{}", self.table);
        println!("{} asked for, {} at fault", self.table.row_count(), self.faults);
        self.faults
    }
}
