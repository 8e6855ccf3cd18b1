//! The overview: what needs somebody, the figures, and small charts, live.

use askama::Template;
use axum::response::Response;

use super::{
    chart::Chart,
    history::Look,
    pages::{Shell, Visit, banners, page, write},
    words,
};
use crate::http::Problem;
use crate::operations::{Finding, Severity};

/// An oldest waiting entry of this age, in seconds, is worth a look.
const LATE_SECONDS: u64 = 15;

/// One figure, and where it leads.
struct Figure {
    name: &'static str,
    value: String,
    unit: &'static str,
    /// `good`, `warn`, `bad` or `unknown`: a class, and said in words by the rest.
    mood: &'static str,
    path: &'static str,
}

/// A figure with its past.
struct Charted {
    figure: Figure,
    chart: Chart,
}

/// Something that needs somebody.
struct Concern {
    mood: &'static str,
    sentence: String,
    advice: String,
    /// Where the console shows it; empty where it does not.
    path: &'static str,
    /// The heading of the RUNBOOK that says more, if one does.
    runbook: String,
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

/// The live part of the page.
#[derive(Template)]
#[template(path = "console/overview_live.html")]
pub(super) struct LivePart {
    banners: Vec<String>,
    as_of: String,
    reach: String,
    concerns: Vec<Concern>,
    charted: Vec<Charted>,
    figures: Vec<Figure>,
}

#[derive(Template)]
#[template(path = "console/overview.html")]
struct OverviewPage {
    shell: Shell,
    live: String,
}

/// The page.
pub(super) async fn show(visit: Visit) -> Result<Response, Problem> {
    let mut shell = visit.shell("/console", "Overview");
    // The live part has them.
    shell.banners.clear();
    page(&OverviewPage { shell, live: live(&visit.look)? })
}

/// The live part.
pub(super) fn live(look: &Look) -> Result<String, Problem> {
    write(&LivePart {
        banners: banners(look),
        as_of: words::time(look.overview.as_of),
        reach: words::span(look.reach()),
        concerns: concerns(look),
        charted: charted(look),
        figures: figures(look),
    })
}

fn charted(look: &Look) -> Vec<Charted> {
    let figures = &look.overview.figures;
    let oldest = figures.oldest_waiting_seconds;
    let waiting = figures.lag.zip(figures.pending).map(|(lag, pending)| lag + pending);
    let oldest_text = match (figures.pending, oldest) {
        (None, _) => words::UNKNOWN.to_owned(),
        (Some(_), None) => "none".to_owned(),
        (Some(_), Some(seconds)) => words::span(seconds),
    };
    let late = oldest.is_some_and(|seconds| seconds >= LATE_SECONDS);
    let figure = |name, value, unit, mood, path| Figure { name, value, unit, mood, path };
    let mood = |known: bool, mood: &'static str| if known { mood } else { "unknown" };
    let rate = |rate: Option<i64>, total: Option<i64>| match (rate, total) {
        (Some(rate), _) => words::number(rate),
        (None, Some(_)) => "measuring".to_owned(),
        (None, None) => words::UNKNOWN.to_owned(),
    };
    vec![
        Charted {
            figure: figure(
                "Accepted",
                rate(look.appended_rate, figures.appended),
                "a second",
                mood(look.appended_rate.is_some(), "good"),
                "/console/partitions",
            ),
            chart: look.appended_chart(),
        },
        Charted {
            figure: figure(
                "Settled",
                rate(look.settled_rate, figures.settled),
                "a second",
                mood(look.settled_rate.is_some(), "good"),
                "/console/partitions",
            ),
            chart: look.settled_chart(),
        },
        Charted {
            figure: figure(
                "Waiting",
                words::known(waiting),
                "payments",
                mood(waiting.is_some(), "good"),
                "/console/stuck",
            ),
            chart: look.waiting_chart(),
        },
        Charted {
            figure: figure(
                "Oldest waiting",
                oldest_text,
                "",
                mood(figures.pending.is_some(), if late { "warn" } else { "good" }),
                "/console/stuck",
            ),
            chart: look.oldest_chart(),
        },
    ]
}

fn figures(look: &Look) -> Vec<Figure> {
    let figures = &look.overview.figures;
    let cases = |name, count: Option<i64>, unit, path| Figure {
        name,
        value: count.map_or_else(|| words::UNKNOWN.to_owned(), words::cases),
        unit,
        mood: match count {
            None => "unknown",
            Some(0) => "good",
            Some(_) => "warn",
        },
        path,
    };
    let plain = |name, count: Option<i64>, unit, path| Figure {
        name,
        value: words::known(count),
        unit,
        mood: if count.is_some() { "good" } else { "unknown" },
        path,
    };
    let count = |count: Option<usize>| count.and_then(|count| i64::try_from(count).ok());
    let alive = count(figures.workers_alive);
    let unserved = count(figures.partitions_unserved);
    let bad =
        |figure: Figure, bad: bool| if bad { Figure { mood: "bad", ..figure } } else { figure };
    vec![
        plain("Not taken yet", figures.lag, "lag", "/console/partitions"),
        plain("Under way", figures.pending, "pending", "/console/stuck"),
        cases("Dead letters", figures.dead_letters, "to decide", "/console/dead-letters"),
        cases("Suspense", figures.suspense, "held", "/console/suspense"),
        cases("Conflicts", figures.conflicts, "open", "/console/conflicts"),
        cases("Parked", figures.parked, "customers", "/console/parked"),
        bad(plain("Workers", alive, "alive", "/console/partitions"), alive == Some(0)),
        bad(
            cases("Partitions", unserved, "unserved", "/console/partitions"),
            unserved.is_some_and(|count| count > 0),
        ),
    ]
}

/// What needs somebody, the worst first.
fn concerns(look: &Look) -> Vec<Concern> {
    let figures = &look.overview.figures;
    let mut concerns = Vec::new();
    let mut add = |mood, sentence, advice: &str, path| {
        let (advice, runbook) = (advice.to_owned(), String::new());
        concerns.push(Concern { mood, sentence, advice, path, runbook });
    };
    if let Some(count) = figures.partitions_unserved.filter(|count| *count > 0) {
        let (what, advice) = match figures.workers_alive {
            Some(0) => ("no worker lives", "Start one; nothing is lost meanwhile."),
            _ => ("a living worker takes them over", "Watch them move."),
        };
        let are = if count == 1 { "partition has" } else { "partitions have" };
        let sentence = format!("{count} {are} no living owner: {what}.");
        add("bad", sentence, advice, "/console/partitions");
    }
    let late = figures.oldest_waiting_seconds.filter(|seconds| *seconds >= LATE_SECONDS);
    if let Some(seconds) = late {
        let sentence = format!("A payment has waited for {}.", words::span(seconds));
        add("warn", sentence, "See what it waits for.", "/console/stuck");
    }
    let cases = [
        (
            figures.dead_letters,
            "1 payment could not be settled and became a dead letter.",
            "payments could not be settled and became dead letters.",
            "Mend the cause, then redrive or discard.",
            "/console/dead-letters",
        ),
        (
            figures.conflicts,
            "1 payment is in conflict: another one has its reference.",
            "payments are in conflict: others have their references.",
            "Compare them, ask the bank, then resolve.",
            "/console/conflicts",
        ),
        (
            figures.suspense,
            "1 payment is in suspense: nobody knows its customer.",
            "payments are in suspense: nobody knows their customers.",
            "Assign it, open the account, or mark it for refund.",
            "/console/suspense",
        ),
    ];
    for (count, one, many, advice, path) in cases {
        let Some(count) = count.filter(|count| *count > 0) else { continue };
        let sentence = match count {
            1 => one.to_owned(),
            count => format!("{} {many}", words::cases(count)),
        };
        add("warn", sentence, advice, path);
    }
    if let Some(count) = figures.parked.filter(|count| *count > 0) {
        let customers = if count == 1 { "customer" } else { "customers" };
        let count = words::cases(count);
        let sentence = format!("Payments of {count} {customers} wait behind a dead letter.");
        add("warn", sentence, "Release them when it is dealt with.", "/console/parked");
    }
    let told = |finding: &&Finding| TOLD_BY_FIGURES.contains(&finding.code);
    concerns.extend(look.findings.iter().filter(|finding| !told(finding)).map(Concern::found));
    let rank =
        |concern: &Concern| ["bad", "warn", "notice"].iter().position(|m| *m == concern.mood);
    concerns.sort_by_key(rank);
    concerns
}

impl Concern {
    /// What a checkup found.
    fn found(finding: &Finding) -> Self {
        let path = match finding.code {
            "owner_silent" | "owner_stuck" | "owners_uneven" | "release_ignored" => {
                "/console/partitions"
            }
            "pending_old" | "poison_on_trial" => "/console/stuck",
            _ => "",
        };
        Self {
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
}
