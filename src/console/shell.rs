//! What is around every page: the navigation, who is here, what was just done,
//! and which store does not answer. Also the page of a problem.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{FromRequestParts, Query},
    http::{HeaderMap, request::Parts},
    response::{Html, IntoResponse, Response},
};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tracing::error;

use super::{assets, history::LiveFigures, live::Console, words};
use crate::{
    http::{Code, Principal, Problem, SIGN_IN, access},
    ledger,
    operations::{self, KeyFigures, Operations, notice},
};

/// Holds the name of whoever made the last change here.
pub(super) const NAME_COOKIE: &str = "paystream_name";

/// A place in the navigation.
pub(super) struct Area {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    /// How many cases wait there, if that is known and more than none.
    pub(super) open: Option<String>,
}

/// How many cases wait somewhere.
pub(super) type CountOpen = fn(&KeyFigures) -> Option<i64>;

/// Where one can go: a name, a path, and what is open there.
pub(super) const AREAS: [(&str, &str, CountOpen); 10] = [
    ("Overview", "/console", |_| None),
    ("Partitions", "/console/partitions", |_| None),
    ("Stuck work", "/console/stuck", |_| None),
    ("Payments", "/console/payments", |_| None),
    ("Dead letters", "/console/dead-letters", |figures| figures.dead_letters),
    ("Suspense", "/console/suspense", |figures| figures.suspense),
    ("Conflicts", "/console/conflicts", |figures| figures.conflicts),
    ("Parked", "/console/parked", |figures| figures.parked),
    ("Customers", "/console/customers", |_| None),
    ("Audit log", "/console/audit", |_| None),
];

pub(super) struct Shell {
    pub(super) title: String,
    pub(super) here: &'static str,
    pub(super) areas: Vec<Area>,
    pub(super) operator: Option<String>,
    /// Whether the operator may change something.
    pub(super) may_act: bool,
    /// Whether there is something to sign out of.
    pub(super) signs_out: bool,
    pub(super) notice: Option<&'static str>,
    /// Which stores are away, where the live part of the page does not say so.
    pub(super) look: Option<Arc<LiveFigures>>,
}

impl Shell {
    /// Around a page that knows nobody.
    pub(super) fn bare(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            here: "",
            areas: areas(None),
            operator: None,
            may_act: false,
            signs_out: false,
            notice: None,
            look: None,
        }
    }

    /// Where pages find a file.
    pub(super) fn asset(&self, name: &str) -> String {
        assets::path(name)
    }
}

/// Somebody who looks at a page, with everything at a glance as it is now.
pub(super) struct Visit {
    pub(super) console: Arc<Console>,
    pub(super) operator: Principal,
    /// The name that was given with the last change.
    pub(super) remembered: String,
    pub(super) look: Arc<LiveFigures>,
    done: Option<&'static str>,
}

#[derive(Deserialize)]
struct DoneQuery {
    done: Option<String>,
}

impl FromRequestParts<Arc<Console>> for Visit {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        console: &Arc<Console>,
    ) -> Result<Self, Problem> {
        let operator = parts.extensions.get::<Principal>().cloned().unwrap_or_default();
        let query = Query::<DoneQuery>::try_from_uri(&parts.uri).ok();
        let code = query.and_then(|Query(query)| query.done);
        Ok(Self {
            operator,
            remembered: remembered(&parts.headers),
            look: console.live.fresh(&console.app.gateway.operations).await,
            done: code.as_deref().and_then(done),
            console: Arc::clone(console),
        })
    }
}

impl Visit {
    pub(super) fn operations(&self) -> &Operations {
        &self.console.app.gateway.operations
    }

    /// Asks the ledger through its circuit.
    pub(super) async fn ask<T>(
        &self,
        asking: impl Future<Output = Result<T, ledger::Error>>,
    ) -> Result<T, Problem> {
        let away = |problem: &Problem| problem.code() == Code::LedgerUnavailable;
        self.console.app.ask(asking).await.map_err(|problem| match away(&problem) {
            true => Problem::new(Code::LedgerUnavailable, LEDGER_AWAY),
            false => problem,
        })
    }

    pub(super) fn shell(&self, here: &'static str, title: impl Into<String>) -> Shell {
        Shell {
            title: title.into(),
            here,
            areas: areas(Some(&self.look)),
            operator: self.operator.name.as_deref().map(str::to_owned),
            may_act: self.operator.may_act(),
            signs_out: self.console.app.gateway.config.asks_operators_for_token(),
            notice: self.done,
            look: Some(Arc::clone(&self.look)),
        }
    }
}

/// What was done, by the code in the query of the page that follows. A code and
/// no text: a link cannot make a page say what it likes.
fn done(code: &str) -> Option<&'static str> {
    match code {
        "sign-out" => Some("Signed out."),
        _ => notice(code),
    }
}

/// The path of an area; that of the overview where there is none of this name.
pub(super) fn area(name: &str) -> &'static str {
    let paths = AREAS.iter().map(|(_, path, _)| *path);
    let of_name = |path: &&str| path.strip_prefix("/console/") == Some(name);
    paths.clone().find(of_name).unwrap_or(AREAS[0].1)
}

fn areas(look: Option<&LiveFigures>) -> Vec<Area> {
    let figures = look.map(|look| &look.snapshot.figures);
    let area = |(name, path, open): (_, _, CountOpen)| {
        let open = figures.and_then(open).filter(|count| *count > 0).map(words::cases);
        Area { name, path, open }
    };
    AREAS.into_iter().map(area).collect()
}

#[derive(Template)]
#[template(path = "console/problem.html")]
struct ProblemPage<'a> {
    shell: Shell,
    title: &'a str,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
}

#[derive(Template)]
#[template(path = "console/sign_in.html")]
pub(super) struct SignInPage {
    pub(super) shell: Shell,
    pub(super) to: String,
    pub(super) refused: Option<String>,
}

/// The name that was given with the last change.
fn remembered(headers: &HeaderMap) -> String {
    let name = access::cookie(headers, NAME_COOKIE).unwrap_or_default();
    percent_decode_str(name).decode_utf8().map(String::from).unwrap_or_default()
}

/// The page of a problem; who has not signed in is asked to.
pub(super) fn problem_page(problem: &Problem, path_and_query: &str, request_id: &str) -> String {
    let code = problem.code();
    let page = if code == Code::Unauthorized {
        let refused = path_and_query.starts_with(SIGN_IN);
        let to = if refused { String::new() } else { path_and_query.to_owned() };
        let refused = refused.then(|| problem.detail().to_owned());
        SignInPage { shell: Shell::bare("Sign in"), to, refused }.render()
    } else {
        let title = code.title();
        let shell = Shell::bare(title);
        ProblemPage { shell, title, detail: problem.detail(), code: code.as_str(), request_id }
            .render()
    };
    page.unwrap_or_else(|_| problem.detail().to_owned())
}

/// A page out of its template.
pub(super) fn page(template: &impl Template) -> Result<Response, Problem> {
    Ok(Html(write(template)?).into_response())
}

pub(super) fn write(template: &impl Template) -> Result<String, Problem> {
    template.render().map_err(|error| {
        error!(%error, "a page could not be written");
        Problem::new(Code::Internal, "it has been logged under this request id")
    })
}

/// What it means here that PostgreSQL is away.
const LEDGER_AWAY: &str = "PostgreSQL does not answer, and what this page shows is kept there. \
     Payments are still taken and wait in the streams. Nothing was changed; look again when it is \
     back";

/// What a failure means to whoever looks or acts here. Nothing has changed.
pub(super) fn trouble(error: operations::Error) -> Problem {
    if !error.is_outage() || matches!(error, operations::Error::Halfway(..)) {
        return error.into();
    }
    let (code, detail) = match &error {
        operations::Error::Ledger(_) | operations::Error::LedgerAway => {
            (Code::LedgerUnavailable, LEDGER_AWAY)
        }
        operations::Error::Stream(_)
        | operations::Error::Place(_)
        | operations::Error::Halfway(..) => (
            Code::StreamUnavailable,
            "Redis does not answer, and what this page shows is kept there. What the ledger has \
             is safe and can be looked at. Nothing was changed; look again when it is back",
        ),
    };
    Problem::new(code, detail)
}
