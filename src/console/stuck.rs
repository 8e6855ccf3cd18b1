//! What was taken and is not acknowledged, each entry with why and what is safe to
//! do; the age of all of them at a glance. Also one payment's whole life, found by
//! its reference.

use std::time::Duration;

use askama::Template;
use axum::response::Response;

use super::{
    list::{Asked, Listing},
    shell::{Shell, Visit, page, trouble},
    words,
};
use crate::{
    domain::Reference,
    http::{Code, Problem},
    operations::{
        DeadLetter, EntryName, LetterFilter, Life, LifeEvent, PendingEntry, PendingFilter,
        PendingSummary,
    },
};

/// Dead letters of one payment that its page leads to.
const LETTERS_MAX: i64 = 10;

#[derive(Template)]
#[template(path = "console/stuck.html")]
struct StuckPage {
    shell: Shell,
    list: Listing<PendingEntry>,
    summary: PendingSummary,
    as_of: String,
}

pub(super) async fn list(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let bad = |_| Problem::new(Code::InvalidQuery, "idle must be a time, such as 30s or 2m");
    let min_idle = asked.text("min_idle").map(humantime::parse_duration);
    let min_idle: Option<Duration> = min_idle.transpose().map_err(bad)?;
    let filter = PendingFilter {
        partition: asked.parsed("partition")?,
        min_idle,
        consumer: asked.owned("consumer"),
        reference: asked.owned("reference"),
        from: asked.parsed("from")?,
        limit: None,
    };
    let operations = visit.operations();
    let looking = async {
        tokio::try_join!(operations.pending(&filter), operations.pending_summary(|_, _| ()),)
    };
    let (found, summary) = looking.await.map_err(trouble)?;
    let list = Listing { rows: found.entries, asked, next: None };
    page(&StuckPage {
        shell: visit.shell("/console/stuck", "Stuck work"),
        list: list.followed_by("from", found.next.map(String::from)),
        summary,
        as_of: words::time(&found.as_of),
    })
}

/// Names and counts of the bars that show how old entries are.
fn ages(summary: &PendingSummary) -> Vec<(String, u64)> {
    let mut above = 0;
    let mut bars = Vec::new();
    for bucket in &summary.ages {
        let name = match bucket.below_seconds {
            Some(below) if above == 0 => format!("under {}", words::span(below)),
            Some(below) => format!("{} to {}", words::span(above), words::span(below)),
            None => format!("over {}", words::span(above)),
        };
        bars.push((name, bucket.entries));
        above = bucket.below_seconds.unwrap_or(above);
    }
    bars
}

fn consumers(summary: &PendingSummary) -> Vec<(String, u64)> {
    summary.consumers.iter().map(|share| (share.consumer.clone(), share.entries)).collect()
}

/// How long a bar is, of 100.
fn width(bars: &[(String, u64)], count: &u64) -> u64 {
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(0);
    (count * 100).div_ceil(most.max(1))
}

fn owner(entry: &PendingEntry) -> String {
    match (&entry.owner, entry.owner_alive) {
        (Some(owner), Some(true)) => owner.clone(),
        (Some(owner), _) => format!("{owner} (silent)"),
        (None, Some(_)) => "nobody".to_owned(),
        (None, None) => words::UNKNOWN.to_owned(),
    }
}

#[derive(Template)]
#[template(path = "console/payments.html")]
struct PaymentsPage {
    shell: Shell,
    reference: String,
    /// What is wrong with the reference.
    invalid: Option<&'static str>,
    life: Option<Life>,
    /// Its dead letters, the latest first.
    letters: Vec<DeadLetter>,
}

/// One payment's life, or the form that finds it.
pub(super) async fn payment(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let reference = asked.owned("reference").unwrap_or_default();
    let (mut life, mut invalid, mut letters) = (None, None, Vec::new());
    match Reference::parse(reference.clone()) {
        _ if reference.is_empty() => {}
        Ok(wanted) => life = visit.operations().life(&wanted).await.map_err(trouble)?,
        Err(wrong) => invalid = Some(wrong.reason),
    }
    let moments = life.iter().flat_map(|life| &life.moments);
    if moments.into_iter().any(|moment| moment.code == "dead_lettered") {
        let filter = LetterFilter { limit: Some(LETTERS_MAX), ..LetterFilter::of(&reference) };
        let found = visit.operations().dead_letters(&filter).await;
        letters = found.map_err(trouble)?.rows;
    }
    let title = match reference.is_empty() {
        true => "Payments".to_owned(),
        false => format!("Payment {reference}"),
    };
    let shell = visit.shell("/console/payments", title);
    page(&PaymentsPage { shell, reference, invalid, life, letters })
}

fn state_mood(life: &Life) -> &'static str {
    let trouble = life.pending.as_ref().is_some_and(|pending| pending.verdict.trouble);
    match life.state.as_str() {
        "applied" | "recorded" => "good",
        "dead_lettered" | "rejected" => "bad",
        "accepted" if !trouble => "good",
        _ => "warn",
    }
}

fn mood(moment: &LifeEvent) -> &'static str {
    match (moment.failed, moment.code.as_str()) {
        (true, _) => "bad",
        (false, "applied" | "recorded") => "good",
        (false, "changed") => "changed",
        (false, _) => "plain",
    }
}
