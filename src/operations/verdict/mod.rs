//! Says of one pending entry why it is where it is, whether that is as it should
//! be, and what is safe to do. Pure: what is known goes in, a verdict comes out.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Act, Action, shapes::span};
use crate::{
    domain::StreamId,
    ledger::{Attempt, LockHolder},
};

/// A worker beats five times within its lease; silence for two beats is worth a
/// word.
const SILENT_BEATS: (u32, u32) = (2, 5);

/// Why an entry is pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verdict {
    /// Stable, for programs: `in_flight`, `waiting_for_ledger`, `owner_silent`,
    /// `no_owner`, `changing_hands`, `committed`, `tried_again`, `poison`,
    /// `behind_poison`, `locked`, `unreadable`, `deleted`, `slow`.
    pub code: &'static str,
    pub sentence: String,
    /// Whether it is more than work under way.
    pub trouble: bool,
    /// What is safe to do, the best first. Never empty.
    pub actions: Vec<Action>,
}

/// All that is known of one pending entry.
pub(super) struct Situation<'a> {
    pub(super) partition: u16,
    pub(super) id: StreamId,
    /// Why it cannot be read, if it cannot.
    pub(super) unreadable: Option<&'a str>,
    pub(super) deleted: bool,
    /// The worker it was handed to last.
    pub(super) consumer: &'a str,
    /// Time since it was handed to that worker.
    pub(super) idle: Duration,
    /// Nothing while the ledger cannot be asked.
    pub(super) ledger: Option<InLedger<'a>>,
}

/// What the ledger knows around an entry.
pub(super) struct InLedger<'a> {
    /// What came of it already.
    pub(super) settled: Option<&'a str>,
    pub(super) owner: Option<OwnerLease<'a>>,
    /// How many other workers live.
    pub(super) others_alive: usize,
    /// What is being tried on its partition.
    pub(super) trial: Option<&'a Attempt>,
    /// What somebody else has locked that its partition needs, and who.
    pub(super) lock: Option<(String, &'a LockHolder)>,
}

/// The owner of a partition.
pub(super) struct OwnerLease<'a> {
    pub(super) name: &'a str,
    pub(super) silence: Duration,
    pub(super) lease: Duration,
    pub(super) attempts_max: u32,
}

impl OwnerLease<'_> {
    pub(super) fn is_alive(&self) -> bool {
        self.silence <= self.lease
    }

    fn is_silent(&self) -> bool {
        self.silence * SILENT_BEATS.1 > self.lease * SILENT_BEATS.0
    }
}

impl Verdict {
    /// Whether a locked table explains more.
    pub(super) fn may_be_a_lock(&self) -> bool {
        ["in_flight", "tried_again", "behind_poison", "slow", "waiting_for_ledger"]
            .contains(&self.code)
    }

    /// Somebody keeps every payment from being settled.
    pub(super) fn of_table(holder: &LockHolder) -> Self {
        locked("a table of the ledger", holder)
    }
}

impl Situation<'_> {
    /// The verdict. What explains most is asked first.
    pub(super) fn judge(&self) -> Verdict {
        let partition = self.partition;
        if self.deleted {
            let sentence = "the entry was deleted from the stream before it was settled; its \
                            sequence is reported by the audit";
            return verdict("deleted", sentence, partition, &[RELEASE, AUDIT]);
        }
        let Some(ledger) = &self.ledger else {
            let sentence = "waiting for the ledger: PostgreSQL does not answer in time. The payment \
                            is safe in the stream and is settled when PostgreSQL does";
            return verdict("waiting_for_ledger", sentence, partition, &[CHECK_POSTGRESQL]);
        };
        if let Some(state) = ledger.settled {
            let sentence = format!(
                "committed but not acknowledged: the ledger has it as {state}. It is acknowledged \
                 without a second effect when the owner next looks through what is pending"
            );
            let calm = self.idle < Duration::from_secs(2);
            return Verdict {
                trouble: !calm,
                ..verdict("committed", sentence, partition, &[JUST_WAIT, RELEASE])
            };
        }
        let Some(owner) = &ledger.owner else {
            let (then, action) = match ledger.others_alive {
                0 => ("no worker lives", START_WORKER),
                _ => ("a living worker acquires it within a second", JUST_WAIT),
            };
            let sentence = format!("nobody owns partition {partition}: {then}");
            return verdict("no_owner", sentence, partition, &[action]);
        };
        if owner.is_silent() {
            return self.silent(owner, ledger.others_alive);
        }
        if let Some(reason) = self.unreadable {
            let sentence = format!(
                "it cannot be read: {reason}. It becomes a dead letter when it is its turn"
            );
            return verdict("unreadable", sentence, partition, &[JUST_WAIT]);
        }
        if let Some((what, holder)) = &ledger.lock {
            return locked(what, holder);
        }
        if let Some(trial) = ledger.trial {
            if (trial.first..=trial.last).contains(&self.id) {
                return self.tried(trial, owner);
            }
            if trial.first < self.id {
                let sentence = format!(
                    "waits behind entry {}, which is being tried, attempt {} of {}: a partition \
                     is settled in order",
                    trial.first, trial.attempts, owner.attempts_max
                );
                return verdict("behind_poison", sentence, partition, &[JUST_WAIT]);
            }
        }
        self.held(owner)
    }

    /// The owner does not beat.
    fn silent(&self, owner: &OwnerLease<'_>, others_alive: usize) -> Verdict {
        let OwnerLease { name, silence, lease, .. } = owner;
        let for_how_long = span(*silence);
        let left = lease.saturating_sub(*silence);
        let in_time = span(left.max(Duration::from_secs(1)));
        let then = match (others_alive, left.is_zero()) {
            (0, true) => "no other worker lives".to_owned(),
            (0, false) => {
                format!("no other worker lives to take it over when its lease ends in {in_time}")
            }
            (_, true) => "taken over at any moment".to_owned(),
            (_, false) => format!("taken over in {in_time}"),
        };
        let actions: &[Advice] =
            if others_alive == 0 { &[START_WORKER] } else { &[JUST_WAIT, FORCE] };
        let sentence = format!(
            "owner {name} has not been heard of for {for_how_long} (dead, frozen or cut off); {then}"
        );
        verdict("owner_silent", sentence, self.partition, actions)
    }

    fn tried(&self, trial: &Attempt, owner: &OwnerLease<'_>) -> Verdict {
        let of = format!("{} of {} attempts", trial.attempts, owner.attempts_max);
        let sentence = match &trial.error {
            None if trial.attempts <= 1 => {
                let sentence = format!("came back after a crash or a failure; being tried, {of}");
                return calm("tried_again", sentence);
            }
            None => format!(
                "poison, {of}: the last one failed or ended its worker. It is being tried alone; \
                 after the last attempt it becomes a dead letter"
            ),
            Some(error) => format!(
                "poison, {of}: {error}. After the last it becomes a dead letter, and the partition \
                 goes on"
            ),
        };
        verdict("poison", sentence, self.partition, &[JUST_WAIT, ONCE_DEAD])
    }

    /// The owner lives and nothing is wrong with the entry.
    fn held(&self, owner: &OwnerLease<'_>) -> Verdict {
        let OwnerLease { name, lease, .. } = owner;
        let (consumer, idle) = (self.consumer, span(self.idle));
        let late = self.idle > *lease;
        if consumer != *name {
            let sentence = format!(
                "{name} has taken partition {} over from {consumer} and settles first what that \
                 one left, untouched for {idle}",
                self.partition
            );
            return match late {
                true => verdict("changing_hands", sentence, self.partition, &[RELEASE, DOCTOR]),
                false => calm("changing_hands", sentence),
            };
        }
        if late {
            let sentence = format!(
                "{name} lives and has had it for {idle}, longer than a batch may take: it waits \
                 for PostgreSQL or Redis, or hangs"
            );
            return verdict("slow", sentence, self.partition, &[DOCTOR, RELEASE]);
        }
        calm("in_flight", format!("in flight: {name} has had it for {idle}"))
    }
}

/// A verdict that is trouble; `number` is put into what to do.
fn verdict(
    code: &'static str,
    sentence: impl Into<String>,
    number: impl Into<i64>,
    advice: &[Advice],
) -> Verdict {
    let number = number.into();
    let actions = advice.iter().map(|advice| advice.action(number)).collect();
    Verdict { code, sentence: sentence.into(), trouble: true, actions }
}

/// Work under way.
fn calm(code: &'static str, sentence: String) -> Verdict {
    Verdict { trouble: false, ..verdict(code, sentence, 0, &[JUST_WAIT]) }
}

/// Another session has locked what the entry's partition needs.
fn locked(what: &str, holder: &LockHolder) -> Verdict {
    let LockHolder { pid, application, state, open_ms, .. } = holder;
    let open = open_ms.and_then(|age| u64::try_from(age).ok());
    let open = open.map_or(String::new(), |age| {
        format!("; its transaction has been open for {}", span(Duration::from_millis(age)))
    });
    let sentence = format!(
        "waits for {what}, locked by PostgreSQL process {pid} ({application}, {state}){open}. It is \
         settled when that transaction ends"
    );
    verdict("locked", sentence, *pid, &[JUST_WAIT, END_SESSION])
}

/// What is safe to do.
enum Advice {
    /// Code, label, command if a command does it, and why it can do no harm. `#` stands for
    /// a process of PostgreSQL.
    Plain([&'static str; 4]),
    /// Releases the entry's partition.
    Release { force: bool },
}

impl Advice {
    fn action(&self, number: i64) -> Action {
        match self {
            Self::Plain([code, label, command, safe_because]) => Action {
                code,
                label: label.replace('#', &number.to_string()),
                command: (!command.is_empty()).then(|| command.replace('#', &number.to_string())),
                safe_because,
                act: None,
            },
            Self::Release { force } => {
                let partition = u16::try_from(number).unwrap_or(u16::MAX);
                Act::Release { partition, force: *force, wait: false }.action()
            }
        }
    }
}

const JUST_WAIT: Advice = Advice::Plain(["wait", "Wait", "", "it goes on by itself"]);
const START_WORKER: Advice = Advice::Plain([
    "start_worker",
    "Start a worker",
    "paystream serve worker",
    "a worker takes only what nobody living owns",
]);
const CHECK_POSTGRESQL: Advice = Advice::Plain([
    "check_postgresql",
    "See why PostgreSQL does not answer",
    "paystream doctor",
    "nothing has to be restarted or sent again",
]);
const DOCTOR: Advice =
    Advice::Plain(["doctor", "Look for the cause", "paystream doctor", "it only looks"]);
const AUDIT: Advice =
    Advice::Plain(["audit", "Account for every sequence", "paystream audit", "it only looks"]);
const RELEASE: Advice = Advice::Release { force: false };
const FORCE: Advice = Advice::Release { force: true };
const END_SESSION: Advice = Advice::Plain([
    "end_session",
    "End process # of PostgreSQL, if it is nobody's work",
    "psql -c 'select pg_terminate_backend(#)'",
    "its transaction is rolled back, and the worker tries the payment again",
]);
const ONCE_DEAD: Advice = Advice::Plain([
    "redrive",
    "Mend the cause; once it is a dead letter, redrive or discard it",
    "paystream dead-letters list",
    "a reference moves money once, however often it is tried",
]);

#[cfg(test)]
mod tests;
