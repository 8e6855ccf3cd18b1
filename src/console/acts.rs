//! What can be done, asked before it is done: what will happen, why it can do no
//! harm, who and why. A change is made once; the page that follows says so. Knows
//! no act by name: that is for `operations`.

use askama::Template;
use axum::{
    Extension, Form,
    extract::rejection::FormRejection,
    http::header,
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    session,
    shell::{Shell, Visit, area, page, trouble, write},
    words,
};
use crate::http::{Code, Peer, Problem, Query, Segment};
use crate::{
    domain::CustomerId,
    operations::{Act, Answer, Foretold},
};

/// What an act is done to; a link fills in no more of its form.
#[derive(Deserialize)]
pub(super) struct ActQuery {
    of: String,
}

#[derive(Default, Deserialize)]
pub(super) struct ActForm {
    of: String,
    #[serde(default)]
    reason: String,
    actor: Option<String>,
    #[serde(default)]
    customer: String,
    force: Option<String>,
}

#[derive(Template)]
#[template(path = "console/act.html")]
struct ActPage {
    shell: Shell,
    act: Act,
    form: ActForm,
    /// Where one came from, and goes back to.
    back: String,
    /// What forcing it means, where it can be forced.
    asks_force: Option<&'static str>,
    asks_name: bool,
    foretold: Option<Foretold>,
    /// Why it was not done.
    refusal: Option<String>,
}

pub(super) async fn ask(
    visit: Visit,
    Segment(code): Segment,
    Query(ActQuery { of }): Query<ActQuery>,
) -> Result<Response, Problem> {
    let form = ActForm { of, ..ActForm::default() };
    let act = read(&code, &form)?;
    page(&asking(&visit, act, form, None).await?)
}

/// Does it, and leads to where it shows. What is missing or refused is said on
/// the page that asks.
pub(super) async fn act(
    visit: Visit,
    Segment(code): Segment,
    Extension(peer): Extension<Peer>,
    form: Result<Form<ActForm>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(form) = form.map_err(|error| Problem::new(Code::InvalidRequest, error.body_text()))?;
    let act = read(&code, &form)?;
    match perform(&visit, &act, &form).await {
        Ok(answer) => {
            let name = session::name_cookie(form.actor.as_deref().unwrap_or_default(), peer)?;
            let remember = visit.operator.name.is_none().then_some((header::SET_COOKIE, name));
            let to = format!("{}?done={}", back(&act), words::encoded(answer.code));
            Ok((AppendHeaders(remember), Redirect::to(&to)).into_response())
        }
        Err(problem) => {
            let detail = problem.detail().to_owned();
            let asked = asking(&visit, act, form, Some(detail)).await?;
            Ok(problem.with_page(write(&asked)?))
        }
    }
}

fn read(code: &str, form: &ActForm) -> Result<Act, Problem> {
    let unknown = || Problem::new(Code::RouteNotFound, "the console knows no such action");
    Ok(Act::named(code, form.of.trim(), form.force.is_some()).ok_or_else(unknown)??)
}

/// Makes the change; refused, nothing has changed.
async fn perform(visit: &Visit, act: &Act, form: &ActForm) -> Result<Answer, Problem> {
    let signature = visit.operator.sign(form.actor.as_deref(), &form.reason)?;
    let mut act = act.clone();
    if act.asks_customer() {
        act = act.for_customer(CustomerId::parse(form.customer.trim()).map_err(|invalid| {
            Problem::new(Code::InvalidRequest, format!("the customer {}", invalid.reason))
        })?);
    }
    let answer = visit.operations().perform(&act, &signature).await.map_err(trouble)??;
    match answer.complete {
        true => Ok(answer),
        false => Err(Problem::new(Code::NotPossible, answer.sentence)),
    }
}

async fn asking(
    visit: &Visit,
    act: Act,
    mut form: ActForm,
    refusal: Option<String>,
) -> Result<ActPage, Problem> {
    form.actor.get_or_insert_with(|| visit.remembered.clone());
    // What was refused is said; only whether it can be forced is asked for then.
    let foretold = match refusal.is_some() && act.question().force.is_none() {
        true => None,
        false => visit.operations().foretell(&act).await.map_err(trouble)?,
    };
    let needs_force = foretold.as_ref().is_none_or(|foretold| foretold.must_force);
    Ok(ActPage {
        shell: visit.shell(area(act.question().listing), act.title()),
        back: back(&act),
        asks_force: act.question().force.filter(|_| needs_force),
        asks_name: visit.operator.name.is_none(),
        foretold: foretold.filter(|_| refusal.is_none()),
        refusal,
        form,
        act,
    })
}

fn back(act: &Act) -> String {
    match area(act.question().listing) {
        list @ "/console/dead-letters" => format!("{list}/{}", act.of()),
        list => list.to_owned(),
    }
}
