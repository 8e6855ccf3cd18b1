//! Stuck work: every pending entry with a verdict and what is safe to do, page
//! by page, and all of them at a glance.

use std::time::Duration;

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    pages::{PAGE, Shell, Visit, given, page, trouble},
    words,
};
use crate::http::{Code, Problem, Query};
use crate::operations::{Action, PendingEntry, PendingFilter, PendingSummary};

/// Width of the longest bar, in the units of its drawing.
const BAR: u64 = 100;

/// Which entries.
#[derive(Deserialize)]
pub(super) struct StuckQuery {
    partition: Option<String>,
    consumer: Option<String>,
    min_idle: Option<String>,
    reference: Option<String>,
    from: Option<String>,
}

/// How many entries are of an age, or of a consumer.
struct Bar {
    name: String,
    count: String,
    width: u64,
}

/// A safe action: a button, a command to copy, or just what to do.
pub(super) struct Safe {
    pub(super) label: String,
    pub(super) path: Option<String>,
    pub(super) command: Option<String>,
    pub(super) because: &'static str,
}

/// An entry of the list.
pub(super) struct Entry {
    pub(super) partition: u16,
    pub(super) stream_id: String,
    pub(super) sequence: String,
    pub(super) reference: Option<(String, String)>,
    pub(super) customer: Option<(String, String)>,
    pub(super) amount: String,
    pub(super) consumer: String,
    pub(super) owner: String,
    pub(super) idle: String,
    pub(super) deliveries: String,
    pub(super) attempts: u32,
    pub(super) code: &'static str,
    pub(super) sentence: String,
    pub(super) trouble: bool,
    pub(super) actions: Vec<Safe>,
}

#[derive(Template)]
#[template(path = "console/stuck.html")]
struct StuckPage {
    shell: Shell,
    partition: String,
    consumer: String,
    min_idle: String,
    reference: String,
    filtered: bool,
    pending: String,
    lag: String,
    sampled: Option<String>,
    ages: Vec<Bar>,
    consumers: Vec<Bar>,
    entries: Vec<Entry>,
    next: Option<String>,
    as_of: String,
}

/// The page.
pub(super) async fn show(
    visit: Visit,
    Query(query): Query<StuckQuery>,
) -> Result<Response, Problem> {
    let filter = filter(&query)?;
    let limit = usize::try_from(PAGE).unwrap_or(usize::MAX);
    let operations = visit.operations();
    let looking = async {
        tokio::try_join!(
            operations.pending(&filter, query.from.as_deref(), limit),
            operations.pending_summary(|_, _| ()),
        )
    };
    let (found, summary) = looking.await.map_err(trouble)?;
    let text = |field: &Option<String>| given(field.as_ref()).unwrap_or_default().to_owned();
    let (partition, consumer) = (text(&query.partition), text(&query.consumer));
    let (min_idle, reference) = (text(&query.min_idle), text(&query.reference));
    let fields = [
        ("partition", &partition),
        ("consumer", &consumer),
        ("min_idle", &min_idle),
        ("reference", &reference),
    ];
    let set: Vec<String> = fields
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", words::encoded(value)))
        .collect();
    let next = found.next.map(|next| {
        let from = format!("from={}", words::encoded(&next));
        let all: Vec<&str> = set.iter().map(String::as_str).chain([from.as_str()]).collect();
        format!("/console/stuck?{}", all.join("&"))
    });
    let sampled = (summary.looked_at < summary.pending).then(|| words::number(summary.looked_at));
    page(&StuckPage {
        shell: visit.shell("/console/stuck", "Stuck work"),
        filtered: !set.is_empty(),
        partition,
        consumer,
        min_idle,
        reference,
        pending: words::number(summary.pending),
        lag: words::number(summary.lag),
        sampled,
        ages: ages(&summary),
        consumers: consumers(&summary),
        entries: found.entries.into_iter().map(Entry::new).collect(),
        next,
        as_of: words::time(found.as_of),
    })
}

fn filter(query: &StuckQuery) -> Result<PendingFilter, Problem> {
    let bad = |what: &str| Problem::new(Code::InvalidQuery, what.to_owned());
    let partition = given(query.partition.as_ref())
        .map(|text| text.parse().map_err(|_| bad("partition must be a number, such as 7")));
    let min_idle = given(query.min_idle.as_ref()).map(|text| {
        humantime::parse_duration(text).map_err(|_| bad("idle must be a time, such as 30s or 2m"))
    });
    let min_idle: Option<Duration> = min_idle.transpose()?;
    Ok(PendingFilter {
        partition: partition.transpose()?,
        min_idle,
        consumer: given(query.consumer.as_ref()).map(str::to_owned),
        reference: given(query.reference.as_ref()).map(str::to_owned),
    })
}

fn bar(name: String, count: u64, most: u64) -> Bar {
    Bar { name, count: words::number(count), width: (count * BAR).div_ceil(most.max(1)) }
}

fn ages(summary: &PendingSummary) -> Vec<Bar> {
    let most = summary.ages.iter().map(|age| age.entries).max().unwrap_or(0);
    let mut above = 0;
    let name = |above: u64, below: Option<u64>| match below {
        Some(below) if above == 0 => format!("under {}", words::span(below)),
        Some(below) => format!("{} to {}", words::span(above), words::span(below)),
        None => format!("over {}", words::span(above)),
    };
    let bars = summary.ages.iter().map(|age| {
        let name = name(above, age.below_seconds);
        above = age.below_seconds.unwrap_or(above);
        bar(name, age.entries, most)
    });
    bars.collect()
}

fn consumers(summary: &PendingSummary) -> Vec<Bar> {
    let most = summary.consumers.iter().map(|share| share.entries).max().unwrap_or(0);
    let bars = summary.consumers.iter();
    bars.map(|share| bar(share.consumer.clone(), share.entries, most)).collect()
}

impl Entry {
    pub(super) fn new(entry: PendingEntry) -> Self {
        let reference = entry.transaction_reference;
        Self {
            actions: entry.verdict.actions.iter().map(Safe::new).collect(),
            partition: entry.partition,
            stream_id: entry.stream_id,
            sequence: entry.sequence.map_or_else(|| words::UNKNOWN.to_owned(), words::number),
            reference: reference.map(|name| (words::payment_path(&name), name)),
            customer: entry.customer_id.map(|name| (words::customer_path(&name), name)),
            amount: words::or_dash(entry.transaction_amount.map(|amount| words::money(&amount))),
            owner: match (entry.owner, entry.owner_alive) {
                (Some(owner), Some(true)) => owner,
                (Some(owner), _) => format!("{owner} (silent)"),
                (None, Some(_)) => "nobody".to_owned(),
                (None, None) => words::UNKNOWN.to_owned(),
            },
            consumer: entry.consumer,
            idle: words::idle(entry.idle_ms),
            deliveries: words::number(entry.deliveries),
            attempts: entry.attempts,
            code: entry.verdict.code,
            sentence: entry.verdict.sentence,
            trouble: entry.verdict.trouble,
        }
    }
}

impl Safe {
    /// An action, done on a page of the console where it is an act.
    pub(super) fn new(action: &Action) -> Self {
        let path = action.act.as_ref().map(words::act_path);
        Self {
            label: action.label.clone(),
            command: if path.is_some() { None } else { action.command.clone() },
            path,
            because: action.safe_because,
        }
    }
}
