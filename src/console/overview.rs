//! The overview: what needs somebody, the figures, and small charts, live.

use askama::Template;
use axum::response::Response;

use super::{
    chart::Chart,
    history::LiveFigures,
    shell::{AREAS, Shell, Visit, page, write},
    words,
};
use crate::{
    http::Problem,
    operations::{Finding, KeyFigures, Severity},
};

/// An oldest waiting entry of this age, in seconds, is worth a look.
const LATE_SECONDS: u64 = 15;

struct Figure {
    name: &'static str,
    value: String,
    unit: &'static str,
    /// `good`, `warn`, `bad` or `unknown`: a class, and said in words by the rest.
    mood: &'static str,
    path: &'static str,
}

struct Concern {
    /// `bad`, `warn` or `notice`.
    mood: &'static str,
    sentence: String,
    advice: String,
    /// Where the console shows it; empty where it does not.
    path: &'static str,
    /// The heading of the RUNBOOK that says more, if one does.
    runbook: String,
}

/// Cases that wait for a decision, and how they are spoken of.
struct Cases {
    /// Of the area that lists them.
    path: &'static str,
    unit: &'static str,
    one: &'static str,
    many: &'static str,
    advice: &'static str,
}

const CASES: [Cases; 4] = [
    Cases {
        path: "/console/dead-letters",
        unit: "to decide",
        one: "1 payment could not be settled and became a dead letter.",
        many: "{} payments could not be settled and became dead letters.",
        advice: "Mend the cause, then redrive or discard.",
    },
    Cases {
        path: "/console/suspense",
        unit: "held",
        one: "1 payment is in suspense: nobody knows its customer.",
        many: "{} payments are in suspense: nobody knows their customers.",
        advice: "Open the account, assign, or mark for refund.",
    },
    Cases {
        path: "/console/conflicts",
        unit: "open",
        one: "1 payment is in conflict: another one has its reference.",
        many: "{} payments are in conflict: others have their references.",
        advice: "Compare them, ask the bank, then resolve.",
    },
    Cases {
        path: "/console/parked",
        unit: "customers",
        one: "Payments of 1 customer wait behind a dead letter.",
        many: "Payments of {} customers wait behind a dead letter.",
        advice: "Redrive or discard it, then release them.",
    },
];

/// Each kind of cases with its name, and how many are open where that is known.
fn cases(figures: &KeyFigures) -> impl Iterator<Item = (&Cases, &'static str, Option<i64>)> {
    CASES.iter().filter_map(|cases| {
        let (name, _, count) = AREAS.into_iter().find(|(_, path, _)| *path == cases.path)?;
        Some((cases, name, count(figures)))
    })
}

/// Findings of a checkup that the figures tell every second.
const TOLD_BY_FIGURES: [&str; 9] = [
    "redis_unreachable",
    "postgresql_unreachable",
    "no_worker",
    "partition_unowned",
    "waiting_long",
    "dead_letters_open",
    "suspense_held",
    "conflicts_open",
    "customers_parked",
];

#[derive(Template)]
#[template(path = "console/overview_live.html")]
struct OverviewLive<'a> {
    look: &'a LiveFigures,
    concerns: Vec<Concern>,
    flow: Vec<(Figure, Chart)>,
    figures: Vec<Figure>,
}

#[derive(Template)]
#[template(path = "console/overview.html")]
struct OverviewPage {
    shell: Shell,
    live: String,
}

pub(super) async fn show(visit: Visit) -> Result<Response, Problem> {
    let mut shell = visit.shell("/console", "Overview");
    // The live part has them.
    shell.look = None;
    page(&OverviewPage { shell, live: live(&visit.look)? })
}

pub(super) fn live(look: &LiveFigures) -> Result<String, Problem> {
    write(&OverviewLive {
        look,
        concerns: concerns(look),
        flow: flow(look),
        figures: figures(&look.snapshot.figures),
    })
}

/// How payments flow, with the last minutes as charts.
fn flow(look: &LiveFigures) -> Vec<(Figure, Chart)> {
    let figures = &look.snapshot.figures;
    let figure = |name, value: String, unit, path| {
        let mood = if value == words::UNKNOWN { "unknown" } else { "good" };
        Figure { name, value, unit, mood, path }
    };
    let rate = |name, rate: Option<i64>, total: Option<i64>| {
        let value = match (rate, total) {
            (None, Some(_)) => "measuring".to_owned(),
            (rate, _) => words::known(&rate),
        };
        let mood = if rate.is_some() { "good" } else { "unknown" };
        Figure { mood, ..figure(name, value, "a second", "/console/partitions") }
    };
    let accepted = rate("Accepted", look.now(|point| point.appended), figures.appended);
    let settled = rate("Settled", look.now(|point| point.settled), figures.settled);
    let waiting = words::known(&look.now(|point| point.waiting));
    let oldest = match (figures.pending, figures.oldest_waiting_seconds) {
        (None, _) => words::UNKNOWN.to_owned(),
        (Some(_), None) => "none".to_owned(),
        (Some(_), Some(seconds)) => words::span(seconds),
    };
    let mut oldest = figure("Oldest waiting", oldest, "", "/console/stuck");
    if figures.pending.is_some() && late(figures).is_some() {
        oldest.mood = "warn";
    }
    vec![
        (accepted, look.chart("accepted per second", |point| point.appended)),
        (settled, look.chart("settled per second", |point| point.settled)),
        (
            figure("Waiting", waiting, "payments", "/console/stuck"),
            look.chart("payments that wait", |point| point.waiting),
        ),
        (oldest, look.chart("seconds that the oldest has waited", |point| point.oldest)),
    ]
}

/// How long the oldest entry has waited, if that is long.
fn late(figures: &KeyFigures) -> Option<u64> {
    figures.oldest_waiting_seconds.filter(|seconds| *seconds >= LATE_SECONDS)
}

fn figures(figures: &KeyFigures) -> Vec<Figure> {
    let (partitions, stuck) = ("/console/partitions", "/console/stuck");
    let figure = |name, count: Option<i64>, unit, path, mood: fn(i64) -> &'static str| {
        let value = words::known(&count);
        Figure { name, value, unit, mood: count.map_or("unknown", mood), path }
    };
    let small = |count: Option<usize>| count.and_then(|count| i64::try_from(count).ok());
    let (alive, unserved) = (small(figures.workers_alive), small(figures.partitions_unserved));
    let flow = [
        figure("Not taken yet", figures.lag, "lag", partitions, |_| "good"),
        figure("Under way", figures.pending, "pending", stuck, |_| "good"),
    ];
    let open = cases(figures).map(|(cases, name, count)| {
        let mood = |count| if count == 0 { "good" } else { "warn" };
        let figure = figure(name, count, cases.unit, cases.path, mood);
        Figure { value: count.map_or(figure.value, words::cases), ..figure }
    });
    let owners = [
        figure("Workers", alive, "alive", partitions, |n| if n == 0 { "bad" } else { "good" }),
        figure("Partitions", unserved, "unserved", partitions, |n| match n {
            0 => "good",
            _ => "bad",
        }),
    ];
    flow.into_iter().chain(open).chain(owners).collect()
}

fn concerns(look: &LiveFigures) -> Vec<Concern> {
    let figures = &look.snapshot.figures;
    let mut concerns = Vec::new();
    let mut add = |mood, sentence, advice: &str, path| {
        let (advice, runbook) = (advice.to_owned(), String::new());
        concerns.push(Concern { mood, sentence, advice, path, runbook });
    };
    if let Some(trouble) = look.redis_trouble() {
        let advice = "Payments of these partitions are refused until it is back, or a replica is.";
        add("bad", format!("{trouble}."), advice, "/console/partitions");
    }
    if let Some(count) = figures.partitions_unserved.filter(|count| *count > 0) {
        let (what, advice) = match figures.workers_alive {
            Some(0) => ("no worker lives", "Start one; nothing is lost meanwhile."),
            _ => ("a living worker takes them over", "Watch them move."),
        };
        let are = if count == 1 { "partition has" } else { "partitions have" };
        let sentence = format!("{count} {are} no living owner: {what}.");
        add("bad", sentence, advice, "/console/partitions");
    }
    if let Some(seconds) = late(figures) {
        let sentence = format!("A payment has waited for {}.", words::span(seconds));
        add("warn", sentence, "See what it waits for.", "/console/stuck");
    }
    for (cases, _, count) in cases(figures) {
        let sentence = match count {
            None | Some(0) => continue,
            Some(1) => cases.one.to_owned(),
            Some(count) => cases.many.replace("{}", &words::cases(count)),
        };
        add("warn", sentence, cases.advice, cases.path);
    }
    let told = |finding: &&Finding| TOLD_BY_FIGURES.contains(&finding.code);
    concerns.extend(look.findings.iter().filter(|finding| !told(finding)).map(found));
    let rank =
        |concern: &Concern| ["bad", "warn", "notice"].iter().position(|m| *m == concern.mood);
    concerns.sort_by_key(rank);
    concerns
}

fn found(finding: &Finding) -> Concern {
    let path = match finding.code {
        "owner_silent" | "owner_stuck" | "owners_uneven" | "release_ignored" => {
            "/console/partitions"
        }
        "pending_old" | "poison_on_trial" => "/console/stuck",
        _ => "",
    };
    Concern {
        mood: match finding.severity {
            Severity::Critical => "bad",
            Severity::Warning => "warn",
            Severity::Notice | Severity::Good => "notice",
        },
        sentence: format!("{}: {}.", finding.subject, finding.sentence.trim_end_matches('.')),
        advice: finding.advice.clone(),
        path,
        runbook: finding.runbook.replace('-', " "),
    }
}
