//! Makes acts, and says beforehand what would come of one. Refused, nothing has
//! changed. Never asks anybody whether to go on: that is for whoever reads acts.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Act, Acted, ConflictName, Error, Operations, Refusal, Signature, names, question,
    shapes::counted,
};

#[derive(Clone, Debug)]
pub struct Answer {
    /// The code of the act, or of an end that is not the usual one: see [`notice`].
    pub code: &'static str,
    pub sentence: String,
    pub document: Value,
    /// Whether everything was done that was asked for.
    pub complete: bool,
}

/// What would come of an act.
#[derive(Clone, Debug)]
pub struct Foretold {
    /// Whether it would be made: not refused, nor by force alone.
    pub would: bool,
    pub must_force: bool,
    pub sentence: String,
}

/// Ends that are not the usual ones of their acts.
const UNTOLD: &str = "discard_untold";
const IN_CONFLICT: &str = "assign_conflict";

/// What a code says that an act ended with.
#[must_use]
pub fn notice(code: &str) -> Option<&'static str> {
    match names::current_code(code) {
        UNTOLD => Some(
            "Discarded. Redis could not be told: sent again within the dedupe window, the payment \
             is answered as a repetition and not settled. Have it sent after that.",
        ),
        IN_CONFLICT => Some(
            "In conflict: the reference was used for another payment while this one was held. No \
             money moved.",
        ),
        code => question::NAMED.iter().find(|asked| asked.code == code).map(|asked| asked.notice),
    }
}

impl Answer {
    fn report(code: &'static str, sentence: &str, report: &impl Serialize) -> Self {
        Self { code, sentence: sentence.to_owned(), document: json!(report), complete: true }
    }

    /// As a sentence says it, and `facts` for programs.
    pub(super) fn done(code: &'static str, sentence: String, mut facts: Value) -> Self {
        facts["done"] = sentence.as_str().into();
        Self { code, sentence, document: facts, complete: true }
    }

    /// The same where it was not done; programs that look for `done` find none.
    pub(super) fn undone(code: &'static str, sentence: String, document: Value) -> Self {
        Self { code, sentence, document, complete: false }
    }
}

impl Act {
    #[must_use]
    pub fn refused(&self, refusal: &Refusal) -> Value {
        let refused = refusal.sentence();
        if let Self::Release { partition, .. } = self {
            json!({ "partition": partition, "handed_over": false, "refused": refused })
        } else {
            json!({ "refused": refused })
        }
    }
}

impl Operations {
    /// Makes a change.
    pub async fn perform(&self, act: &Act, by: &Signature) -> Result<Acted<Answer>, Error> {
        let code = act.question().code;
        let done = |sentence, facts| Answer::done(code, sentence, facts);
        Ok(match act {
            Act::Redrive { id, dry_run } => {
                let report = self.redrive(*id, by, *dry_run).await?;
                report.map(|report| Answer::report(code, &report.sentence, &report))
            }
            Act::Discard { id } => self.discard(*id, by).await?.map(|report| {
                let told = report.can_be_sent_again == Some(true);
                let code = if told { code } else { UNTOLD };
                Answer::done(
                    code,
                    format!("dead letter {id} is {}", report.sentence),
                    json!(report),
                )
            }),
            Act::Assign { reference, customer: Some(customer) } => {
                self.assign(reference, customer, by).await?.map(|report| {
                    let code = if report.outcome == "applied" { code } else { IN_CONFLICT };
                    Answer::report(code, &report.sentence, &report)
                })
            }
            Act::Assign { customer: None, .. } => {
                Err(Refusal::Impossible("say whose payment it is".to_owned()))
            }
            Act::MarkForRefund { reference } => {
                let name = reference.as_str();
                let facts = json!({ "transaction_reference": name, "state": "refund_marked" });
                let marked = self.admin.mark_for_refund(reference, by).await?;
                marked.map(|()| done(format!("{name} is marked for refund"), facts))
            }
            Act::Resolve { conflict } => {
                let ConflictName { partition, sequence } = conflict;
                let facts =
                    json!({ "partition": partition, "sequence": sequence, "state": "resolved" });
                let resolved = self.admin.resolve_conflict(*partition, *sequence, by).await?;
                resolved.map(|()| done(format!("the conflict {conflict} is resolved"), facts))
            }
            Act::Release { partition, force, wait } => {
                self.release(*partition, (*force, *wait), by).await?
            }
            Act::Unpark { customer, force } => {
                let name = customer.as_str();
                let released = self.parking.release(customer, *force, by).await?;
                if released.is_ok() {
                    self.forget_balance(customer).await;
                }
                released.map(|payments| {
                    let facts = json!({ "customer_id": name, "payments": payments });
                    let what = counted(payments, "payment", "payments");
                    done(format!("{what} of {name} released"), facts)
                })
            }
            Act::AcceptLosses { partition } => {
                let losses = self.ledger.losses();
                let losses = losses.accept(*partition, &by.actor, &by.reason).await?;
                let what = counted(losses, "loss", "losses");
                Ok(done(format!("{what} accepted"), json!({ "accepted": losses })))
            }
            Act::RegisterGroup { name, from } => Ok(self.register_group(name, *from, by).await?),
            Act::RetireGroup { name, force } => Ok(self.retire_group(name, *force, by).await?),
            Act::Resize { to, drain_timeout } => self.resize(*to, *drain_timeout, by).await?,
            Act::AbortResize => self.abort_resize(by).await?,
        })
    }

    /// What would come of an act, where that can be said without making it. Changes
    /// nothing.
    pub async fn foretell(&self, act: &Act) -> Result<Option<Foretold>, Error> {
        if let Act::Redrive { id, .. } = act {
            let nobody = Signature { actor: "dry run".to_owned(), reason: "dry run".to_owned() };
            let (would, sentence) = match self.redrive(*id, &nobody, true).await? {
                Ok(report) => (true, report.sentence),
                Err(refusal) => (false, refusal.sentence().to_owned()),
            };
            return Ok(Some(Foretold { would, must_force: false, sentence }));
        }
        if let Act::Unpark { customer, .. } = act {
            let parked = self.parked(Some(customer)).await?.pop();
            return Ok(Some(parked.map_or_else(
                || Foretold {
                    would: false,
                    must_force: false,
                    sentence: format!("No payment of {} is parked.", customer.as_str()),
                },
                |one| one.release_would(),
            )));
        }
        Ok(None)
    }
}
