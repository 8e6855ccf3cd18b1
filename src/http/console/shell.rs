//! What is around every page: the navigation, who is here, what was just done,
//! and which store does not answer. Also the page of a problem.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{FromRef, FromRequestParts, Query},
    http::request::Parts,
};
use serde::Deserialize;

use super::{
    super::{App, access, operator::Operator, problem::Problem},
    assets::{ASSETS, Assets},
    live::Look,
    session, words,
};
use crate::operations::{Operations, notice};

/// A place in the navigation.
pub(super) struct Area {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    /// How many cases wait there, if that is known and more than none.
    pub(super) open: Option<String>,
}

/// Where one can go: a name, a path.
const AREAS: [(&str, &str); 10] = [
    ("Overview", "/console"),
    ("Partitions", "/console/partitions"),
    ("Stuck work", "/console/stuck"),
    ("Payments", "/console/payments"),
    ("Dead letters", "/console/dead-letters"),
    ("Suspense", "/console/suspense"),
    ("Conflicts", "/console/conflicts"),
    ("Parked", "/console/parked"),
    ("Customers", "/console/customers"),
    ("Audit log", "/console/audit"),
];

/// What is around a page.
pub(super) struct Shell {
    pub(super) title: String,
    /// The path of its area.
    pub(super) here: &'static str,
    pub(super) areas: Vec<Area>,
    /// Who has signed in, by name.
    pub(super) operator: Option<String>,
    /// Whether there is something to sign out of.
    pub(super) signs_out: bool,
    pub(super) notice: Option<&'static str>,
    pub(super) banners: Vec<String>,
    pub(super) assets: &'static Assets,
}

impl Shell {
    /// Around a page that knows nobody.
    pub(super) fn bare(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            here: "",
            areas: areas(None),
            operator: None,
            signs_out: false,
            notice: None,
            banners: Vec::new(),
            assets: &ASSETS,
        }
    }
}

/// Somebody who looks at a page, with everything at a glance as it is now.
pub(super) struct Visit {
    pub(super) app: App,
    pub(super) operator: Operator,
    /// The name that was given with the last change.
    pub(super) remembered: String,
    pub(super) look: Arc<Look>,
    done: Option<&'static str>,
}

#[derive(Deserialize)]
struct DoneQuery {
    done: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Visit
where
    App: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let app = App::from_ref(state);
        let operator = parts.extensions.get::<Operator>().cloned().unwrap_or_default();
        let query = Query::<DoneQuery>::try_from_uri(&parts.uri).ok();
        let code = query.and_then(|Query(query)| query.done);
        Ok(Self {
            operator,
            remembered: session::remembered(&parts.headers),
            look: app.live.fresh(&app.gateway.operations).await,
            done: code.as_deref().and_then(done),
            app,
        })
    }
}

impl Visit {
    pub(super) fn operations(&self) -> &Operations {
        &self.app.gateway.operations
    }

    pub(super) fn shell(&self, here: &'static str, title: impl Into<String>) -> Shell {
        Shell {
            title: title.into(),
            here,
            areas: areas(Some(&self.look)),
            operator: self.operator.0.clone(),
            signs_out: access::asks_for_token(&self.app.gateway.config),
            notice: self.done,
            banners: banners(&self.look),
            assets: &ASSETS,
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
    let paths = AREAS.iter().map(|(_, path)| *path);
    let of_name = |path: &&str| path.strip_prefix("/console/") == Some(name);
    paths.clone().find(of_name).unwrap_or(AREAS[0].1)
}

fn areas(look: Option<&Look>) -> Vec<Area> {
    let figures = look.map(|look| &look.overview.figures);
    let open = |path: &str| {
        let figures = figures?;
        let count = match path {
            "/console/dead-letters" => figures.dead_letters,
            "/console/suspense" => figures.suspense,
            "/console/conflicts" => figures.conflicts,
            "/console/parked" => figures.parked,
            _ => None,
        };
        count.filter(|count| *count > 0).map(words::cases)
    };
    AREAS.iter().map(|(name, path)| Area { name, path, open: open(path) }).collect()
}

/// Which store does not answer, since when, and what that means.
pub(super) fn banners(look: &Look) -> Vec<String> {
    let mut banners = Vec::new();
    if let Some(since) = look.ledger_away {
        banners.push(format!(
            "PostgreSQL has not answered since {} UTC. Payments are still taken and wait in the \
             streams; nothing is settled. Figures of the ledger are unknown until it is back.",
            words::time(since)
        ));
    }
    if let Some(since) = look.redis_away {
        let what = match &look.overview.redis_trouble {
            Some(trouble) => format!("Redis is not as it should be ({trouble}), seen since"),
            None => "Redis has not answered since".to_owned(),
        };
        banners.push(format!(
            "{what} {} UTC. Payments cannot be taken while that is so; what the ledger has is \
             safe. Figures of the streams are unknown until it is back.",
            words::time(since)
        ));
    }
    banners
}

#[derive(Template)]
#[template(path = "console/problem.html")]
struct ProblemPage<'a> {
    shell: Shell,
    title: &'a str,
    detail: &'a str,
    code: &'a str,
    request_id: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "console/sign_in.html")]
pub(super) struct SignInPage {
    pub(super) shell: Shell,
    pub(super) to: String,
    pub(super) refused: bool,
}

/// The page of a problem; who has not signed in is asked to.
pub(in crate::http) fn problem_page(
    problem: &Problem,
    path_and_query: &str,
    request_id: Option<&str>,
) -> String {
    let code = problem.code();
    let page = if problem.is_unauthorized() {
        let refused = path_and_query.starts_with(super::SIGN_IN);
        let to = if refused { String::new() } else { path_and_query.to_owned() };
        SignInPage { shell: Shell::bare("Sign in"), to, refused }.render()
    } else {
        let title = code.title();
        let shell = Shell::bare(title);
        ProblemPage { shell, title, detail: problem.detail(), code: code.as_str(), request_id }
            .render()
    };
    page.unwrap_or_else(|_| problem.detail().to_owned())
}
