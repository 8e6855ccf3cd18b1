//! What can be done, asked before it is done: what will happen, why it can do no
//! harm, who and why. A change is made once; the page that follows says so.

use askama::Template;
use axum::{
    Form,
    extract::rejection::FormRejection,
    http::{HeaderMap, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    conflicts,
    pages::{Shell, Visit, page, trouble, write},
    session, words,
};
use crate::http::{Code, Problem, Query, Segment};
use crate::{
    domain::{CustomerId, Reference},
    operations::{RedriveReport, Signature},
};

/// What somebody wants to do.
enum Act {
    /// The owner of this partition hands it over; or at once.
    Release(u16, bool),
    Redrive(i64),
    Discard(i64),
    /// The customer is in the form.
    Assign(Reference),
    Refund(Reference),
    /// The conflict of this partition with this sequence.
    Resolve(u16, i64),
    /// What waits for this customer; also before an open dead letter.
    Unpark(CustomerId, bool),
}

/// What it is done to.
#[derive(Deserialize)]
pub(super) struct ActQuery {
    of: String,
}

/// What the form sends.
#[derive(Deserialize)]
pub(super) struct ActForm {
    of: String,
    reason: Option<String>,
    actor: Option<String>,
    customer: Option<String>,
    force: Option<String>,
}

/// How an act is asked for.
struct Question {
    title: String,
    what: String,
    because: &'static str,
    verb: &'static str,
    /// It closes a case without settling it.
    grave: bool,
    /// Where one came from, and goes back to.
    back: String,
}

#[derive(Template)]
#[template(path = "console/act.html")]
struct ActPage {
    shell: Shell,
    kind: String,
    of: String,
    question: Question,
    asks_customer: bool,
    /// What forcing it means, where it can be forced.
    asks_force: Option<&'static str>,
    asks_name: bool,
    actor: String,
    reason: String,
    customer: String,
    /// What a dry run said.
    foretold: Option<(bool, String)>,
    /// Why it was not done.
    refusal: Option<String>,
}

/// What forcing a release of a partition means,
const AT_ONCE: &str = "do not wait for the owner: its epoch ends at once, and what it has under \
                       way is refused";
/// and one of parked payments.
const BEFORE_IT: &str = "settle them before the dead letter that they wait for";

/// The page that asks.
pub(super) async fn ask(
    visit: Visit,
    Segment(kind): Segment,
    Query(query): Query<ActQuery>,
) -> Result<Response, Problem> {
    let form = ActForm { of: query.of, reason: None, actor: None, customer: None, force: None };
    let act = read(&kind, &form)?;
    page(&asking(&visit, &kind, &act, form, None).await?)
}

/// Does it, and leads to where it shows. What is missing or refused is said on
/// the page that asks.
pub(super) async fn act(
    visit: Visit,
    Segment(kind): Segment,
    headers: HeaderMap,
    form: Result<Form<ActForm>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(form) = form.map_err(|error| Problem::new(Code::InvalidRequest, error.body_text()))?;
    let act = read(&kind, &form)?;
    let reason = form.reason.as_deref().unwrap_or_default();
    let signature = visit.operator.sign(form.actor.as_deref(), reason);
    let done = match signature {
        Ok(signature) => perform(&visit, &act, &form, &signature).await,
        Err(problem) => Err(problem),
    };
    match done {
        Ok(code) => {
            let name = session::name_cookie(form.actor.as_deref().unwrap_or_default(), &headers)?;
            let remember = visit.operator.0.is_none().then_some((header::SET_COOKIE, name));
            let mut to = question(&act).back;
            to.push(if to.contains('?') { '&' } else { '?' });
            to += &format!("done={}", words::encoded(code.unwrap_or(&kind)));
            Ok((AppendHeaders(remember), Redirect::to(&to)).into_response())
        }
        Err(problem) => {
            let detail = problem.detail().to_owned();
            let asked = asking(&visit, &kind, &act, form, Some(detail)).await?;
            Ok(problem.with_page(write(&asked)?))
        }
    }
}

/// What a kind and its object name.
fn read(kind: &str, form: &ActForm) -> Result<Act, Problem> {
    let of = form.of.trim();
    let missing = || Problem::new(Code::CaseNotFound, "there is nothing of this name to act on");
    let number = || of.parse::<i64>().map_err(|_| missing());
    let reference = || Reference::parse(of).map_err(|_| missing());
    Ok(match kind {
        "release" => Act::Release(of.parse().map_err(|_| missing())?, form.force.is_some()),
        "redrive" => Act::Redrive(number()?),
        "discard" => Act::Discard(number()?),
        "assign" => Act::Assign(reference()?),
        "refund" => Act::Refund(reference()?),
        "resolve" => {
            let (partition, sequence) = conflicts::place(of).ok_or_else(missing)?;
            Act::Resolve(partition, sequence)
        }
        "unpark" => {
            Act::Unpark(CustomerId::parse(of).map_err(|_| missing())?, form.force.is_some())
        }
        _ => return Err(Problem::new(Code::RouteNotFound, "the console knows no such action")),
    })
}

/// Makes the change; refused, nothing has changed. Says under which code the next
/// page tells of it, if not under that of its kind.
async fn perform(
    visit: &Visit,
    act: &Act,
    form: &ActForm,
    signature: &Signature,
) -> Result<Option<&'static str>, Problem> {
    let operations = visit.operations();
    let refused = |sentence: String| Err(Problem::new(Code::NotPossible, sentence));
    match act {
        Act::Release(partition, force) => {
            operations.release(*partition, *force, signature).await.map_err(trouble)??;
        }
        Act::Redrive(id) => {
            let report = operations.redrive(*id, signature, false).await.map_err(trouble)??;
            if !report.redriven {
                return refused(report.sentence);
            }
        }
        Act::Discard(id) => {
            let report = operations.discard(*id, signature).await.map_err(trouble)??;
            return Ok((!report.can_be_sent_again).then_some("discard-untold"));
        }
        Act::Assign(reference) => {
            let customer = CustomerId::parse(form.customer.as_deref().unwrap_or_default().trim());
            let customer = customer.map_err(|invalid| {
                let detail = format!("the customer {}", invalid.reason);
                Problem::new(Code::InvalidRequest, detail)
            })?;
            let report =
                operations.assign(reference, &customer, signature).await.map_err(trouble)??;
            if report.outcome != "applied" {
                return refused(report.sentence);
            }
        }
        Act::Refund(reference) => {
            operations.mark_for_refund(reference, signature).await.map_err(trouble)??;
        }
        Act::Resolve(partition, sequence) => {
            let resolved = operations.resolve_conflict(*partition, *sequence, signature).await;
            resolved.map_err(trouble)??;
        }
        Act::Unpark(customer, force) => {
            operations.release_parked(customer, *force, signature).await.map_err(trouble)??;
        }
    }
    Ok(None)
}

async fn asking(
    visit: &Visit,
    kind: &str,
    act: &Act,
    form: ActForm,
    refusal: Option<String>,
) -> Result<ActPage, Problem> {
    let (mut foretold, mut asks_force) = (None, None);
    match act {
        Act::Redrive(id) if refusal.is_none() => foretold = Some(foretell(visit, *id).await?),
        Act::Release(..) => asks_force = Some(AT_ONCE),
        Act::Unpark(customer, _) => {
            let parked = visit.operations().parked_one(customer).await.map_err(trouble)?;
            let would = parked.map(|one| one.release_would());
            asks_force = would.as_ref().filter(|(must_force, _)| *must_force).map(|_| BEFORE_IT);
            foretold = would.map(|(must_force, sentence)| (!must_force, format!("{sentence}.")));
        }
        Act::Redrive(_) | Act::Discard(_) | Act::Assign(_) | Act::Refund(_) | Act::Resolve(..) => {}
    }
    let question = question(act);
    Ok(ActPage {
        shell: visit.shell(here(act), question.title.clone()),
        kind: kind.to_owned(),
        of: form.of,
        asks_customer: matches!(act, Act::Assign(_)),
        asks_force,
        asks_name: visit.operator.0.is_none(),
        actor: form.actor.unwrap_or_else(|| visit.remembered.clone()),
        reason: form.reason.unwrap_or_default(),
        customer: form.customer.unwrap_or_default(),
        question,
        foretold,
        refusal,
    })
}

/// What would come of redriving a dead letter: whether it would be settled, and
/// a sentence. Changes nothing.
async fn foretell(visit: &Visit, id: i64) -> Result<(bool, String), Problem> {
    let nobody = Signature { actor: "dry run".to_owned(), reason: "dry run".to_owned() };
    let report = visit.operations().redrive(id, &nobody, true).await.map_err(trouble)?;
    Ok(match report {
        Ok(RedriveReport { redriven, sentence, .. }) => (redriven, sentence),
        Err(refusal) => (false, refusal.sentence().to_owned()),
    })
}

fn here(act: &Act) -> &'static str {
    match act {
        Act::Release(..) => "/console/partitions",
        Act::Redrive(_) | Act::Discard(_) => "/console/dead-letters",
        Act::Assign(_) | Act::Refund(_) => "/console/suspense",
        Act::Resolve(..) => "/console/conflicts",
        Act::Unpark(..) => "/console/parked",
    }
}

fn question(act: &Act) -> Question {
    let ask = |title: String, what: &str, because, verb, grave, back| Question {
        title,
        what: what.to_owned(),
        because,
        verb,
        grave,
        back,
    };
    let list = here(act).to_owned();
    match act {
        Act::Redrive(id) => ask(
            format!("Redrive dead letter {id}"),
            "The payment is settled now, by the rules of today, in one transaction.",
            "a reference moves money at most once, however often it is tried",
            "Redrive it",
            false,
            format!("{list}/{id}"),
        ),
        Act::Discard(id) => ask(
            format!("Discard dead letter {id}"),
            "It is noted that this payment will not be settled. The entry is kept, and so is why.",
            "no money moves, and nothing is deleted; the bank can send the payment again",
            "Discard it",
            true,
            format!("{list}/{id}"),
        ),
        Act::Assign(reference) => ask(
            format!("Assign {}", reference.as_str()),
            "The held money is applied to the account of the customer whose it is.",
            "it is applied once, in one transaction, and only while it is held",
            "Assign it",
            false,
            list,
        ),
        Act::Refund(reference) => ask(
            format!("Mark {} for refund", reference.as_str()),
            "It is noted that the money is to be sent back. It stays in suspense and is not \
             applied any more, even when the account is opened.",
            "no money moves here; whoever pays it back finds it in the list",
            "Mark it for refund",
            true,
            list,
        ),
        Act::Release(partition, _) => ask(
            format!("Hand partition {partition} over"),
            "Its owner finishes the batch under way and gives the partition up; whoever should \
             have it acquires it under a new epoch.",
            "what is pending is settled once, in order, by whoever takes it; payments go on",
            "Hand it over",
            false,
            list,
        ),
        Act::Resolve(partition, sequence) => ask(
            format!("Resolve the conflict of partition {partition}, sequence {sequence}"),
            "It is noted that the conflict was dealt with. Neither payment changes.",
            "a conflict has no effect on any account, before or after",
            "Resolve it",
            false,
            list,
        ),
        Act::Unpark(customer, _) => ask(
            format!("Release what is parked of {}", customer.as_str()),
            "What waits is settled now, in its order and in one transaction, and what comes is \
             not parked any more.",
            "each payment moves money at most once; the dead letter before them stays as it is",
            "Release it",
            false,
            list,
        ),
    }
}
