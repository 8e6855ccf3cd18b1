//! What an operator changes, as one value: what it is done to and with what, and
//! how it is spoken of. The command line, the API and the console read an [`Act`]
//! from what they are told; `perform` makes it.
//!
//! Resizing is no act: it goes on for minutes, is given up and gone on with, and
//! holds a lock of its own (`paystream topology resize`).

use serde::Serialize;
use utoipa::ToSchema;

use super::{Acted, ConflictName, Refusal, names};
use crate::{
    domain::{CustomerId, Reference, argument},
    stream::{GROUP, StartsFrom},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Settles a dead letter, or says what would come of it.
    Redrive {
        id: i64,
        dry_run: bool,
    },
    Discard {
        id: i64,
    },
    /// Applies a held payment to an account; refused until a customer is named.
    Assign {
        reference: Reference,
        customer: Option<CustomerId>,
    },
    MarkForRefund {
        reference: Reference,
    },
    Resolve {
        conflict: ConflictName,
    },
    /// Makes the owner of a partition hand it over, or takes it away by force; may
    /// wait until somebody has acquired it.
    Release {
        partition: u16,
        force: bool,
        wait: bool,
    },
    /// Settles what is parked of a customer; by force, before an open dead letter.
    Unpark {
        customer: CustomerId,
        force: bool,
    },
    /// Accepts losses: those of one partition, or all.
    AcceptLosses {
        partition: Option<u16>,
    },
    /// Lets trimming wait for a group, and creates it where it is missing.
    RegisterGroup {
        name: String,
        from: StartsFrom,
    },
    /// Lets trimming go on without a group; by force, though entries wait for it.
    RetireGroup {
        name: String,
        force: bool,
    },
}

/// Something safe to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Action {
    /// Stable, for programs: `wait`, `release_partition`, `start_worker`,
    /// `check_postgresql`, `doctor`, `audit`, `redrive`, `discard`, and so on.
    pub code: &'static str,
    pub label: String,
    pub command: Option<String>,
    pub safe_because: &'static str,
    /// Where it is an act of ours.
    #[serde(skip)]
    pub act: Option<Act>,
}

/// How an act is asked for; `{}` is the name of what it is done to.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    pub code: &'static str,
    /// The listing in which its case is found.
    pub listing: &'static str,
    title: &'static str,
    label: &'static str,
    /// What makes it, on a button.
    pub verb: &'static str,
    command: &'static str,
    pub what: &'static str,
    pub because: &'static str,
    /// Whether it closes a case without settling it.
    pub grave: bool,
    /// What forcing it means, where it can be forced.
    pub force: Option<&'static str>,
    pub notice: &'static str,
}

const REDRIVE: Words = Words {
    code: "redrive",
    listing: "dead-letters",
    title: "Redrive dead letter {}",
    label: "Redrive",
    verb: "Redrive",
    command: "paystream dead-letters redrive {} --reason \"…\"",
    what: "The payment is settled now, by the rules of today, in one transaction.",
    because: "it is settled once, in one transaction, or stays dead",
    grave: false,
    force: None,
    notice: "Redriven: the payment is settled, and the audit log says who did it and why.",
};

const DISCARD: Words = Words {
    code: "discard",
    title: "Discard dead letter {}",
    label: "Discard; if money is missing, ask the bank to send it again",
    verb: "Discard",
    command: "paystream dead-letters discard {} --reason \"…\"",
    what: "The payment is noted as not to be settled. The entry and the reason are kept. If money \
           is missing, ask the bank to send the payment again.",
    because: "nothing is removed, no money moves, and it is found as discarded",
    grave: true,
    notice: "Discarded: it will not be settled, and the audit log says who did it and why.",
    ..REDRIVE
};

const ASSIGN: Words = Words {
    code: "assign",
    listing: "suspense",
    title: "Assign {}",
    label: "Assign to the customer that was meant",
    verb: "Assign",
    command: "paystream suspense assign {} --customer … --reason \"…\"",
    what: "The held money is applied to the account of the customer whose it is.",
    because: "it is applied once, in one transaction, or stays held",
    notice: "Assigned: the payment was applied to the customer's account.",
    ..REDRIVE
};

const MARK_FOR_REFUND: Words = Words {
    code: "refund_mark",
    title: "Mark {} for refund",
    label: "Mark for refund",
    verb: "Mark for refund",
    command: "paystream suspense refund-mark {} --reason \"…\"",
    what: "The money is noted as to be sent back. It stays in suspense and is not applied any \
           more, even when the account is opened.",
    because: "no money moves in the ledger, and it cannot be applied any more",
    grave: true,
    notice: "Marked for refund: it stays in suspense and is not applied any more.",
    ..ASSIGN
};

const RESOLVE: Words = Words {
    code: "resolve",
    listing: "conflicts",
    title: "Resolve conflict {}",
    label: "Ask the bank which payment is right, then resolve",
    verb: "Resolve",
    command: "paystream conflicts resolve {} --reason \"…\"",
    what: "The conflict is marked as resolved. Neither payment changes.",
    because: "it moves no money; the bank sends a payment again under a new reference",
    notice: "Resolved: the conflict is closed. No money moved.",
    ..REDRIVE
};

const RELEASE: Words = Words {
    code: "release_partition",
    listing: "partitions",
    title: "Hand partition {} over",
    label: "Make the owner hand partition {} over",
    verb: "Hand over",
    command: "paystream release --partition {} --reason \"…\"",
    what: "The owner finishes the batch under way and gives the partition up; whoever should have \
           it acquires it under a new epoch.",
    because: "whoever takes the partition settles what is pending once, in order, and payments go on",
    force: Some(
        "do not wait for the owner: its epoch ends at once, and what it has under way is refused",
    ),
    notice: "The owner was asked to hand the partition over. Watch it move here.",
    ..REDRIVE
};

const TAKE_AWAY: Words = Words {
    label: "Take partition {} from its silent owner now",
    command: "paystream release --partition {} --force --reason \"…\"",
    because: "the fence in PostgreSQL refuses whatever the old owner still commits",
    ..RELEASE
};

const UNPARK: Words = Words {
    code: "unpark",
    listing: "parked",
    title: "Release what is parked of {}",
    label: "Release",
    verb: "Release",
    command: "paystream parked release {} --reason \"…\"",
    what: "What waits is settled now, in its order and in one transaction, and what comes is not \
           parked any more.",
    because: "each payment moves money at most once; the dead letter before them stays as it is",
    force: Some("settle them before the dead letter that they wait for"),
    notice: "Released: what waited was settled in its order, and what comes is not parked.",
    ..REDRIVE
};

const ACCEPT_ALL: Words = Words {
    code: "accept_losses",
    listing: "losses",
    title: "Accept all open losses",
    label: "Accept",
    verb: "Accept",
    command: "paystream losses accept --reason \"…\"",
    what: "The losses are marked as accepted. Health and audit do not report them any more.",
    because: "no payment changes, and one that is sent again is taken",
    grave: true,
    notice: "Accepted: the losses are closed.",
    ..REDRIVE
};

const ACCEPT_OF_ONE: Words = Words {
    title: "Accept the losses of partition {}",
    command: "paystream losses accept --partition {} --reason \"…\"",
    ..ACCEPT_ALL
};

const REGISTER_GROUP: Words = Words {
    code: "register_group",
    listing: "groups",
    title: "Register group {}",
    label: "Register",
    verb: "Register",
    command: "paystream groups register {} --note \"…\"",
    what: "The group is created on every stream that lacks it, and trimming waits for it.",
    because: "nothing is removed, and a group that exists stays where it is",
    notice: "Registered: trimming waits for the group.",
    ..REDRIVE
};

const RETIRE_GROUP: Words = Words {
    code: "retire_group",
    title: "Retire group {}",
    label: "Retire",
    verb: "Retire",
    command: "paystream groups retire {}",
    what: "The group is removed from every stream, and trimming goes on without it.",
    because: "payments are settled by a group of our own, which cannot be retired",
    grave: true,
    force: Some("although entries wait for it: it will not see them"),
    notice: "Retired: trimming does not wait for the group any more.",
    ..REGISTER_GROUP
};

/// Each act that there is, once.
pub(super) const ALL: [&Words; 10] = [
    &REDRIVE,
    &DISCARD,
    &ASSIGN,
    &MARK_FOR_REFUND,
    &RESOLVE,
    &RELEASE,
    &UNPARK,
    &ACCEPT_ALL,
    &REGISTER_GROUP,
    &RETIRE_GROUP,
];

impl Act {
    /// The act that a code and the name of its object say, as forms and links do;
    /// nothing when there is no such act.
    #[must_use]
    pub fn named(code: &str, of: &str, force: bool) -> Option<Acted<Self>> {
        let number = || of.parse::<i64>().ok();
        let partition = || of.parse::<u16>().ok();
        let reference = || Reference::parse(of).ok();
        let group = || group_name(of).ok();
        let act = match names::current_code(code) {
            "redrive" => number().map(|id| Self::Redrive { id, dry_run: false }),
            "discard" => number().map(|id| Self::Discard { id }),
            "assign" => reference().map(|reference| Self::Assign { reference, customer: None }),
            "refund_mark" => reference().map(|reference| Self::MarkForRefund { reference }),
            "resolve" => of.parse().ok().map(|conflict| Self::Resolve { conflict }),
            "release_partition" => {
                partition().map(|partition| Self::Release { partition, force, wait: false })
            }
            "unpark" => CustomerId::parse(of).ok().map(|customer| Self::Unpark { customer, force }),
            "accept_losses" if of.is_empty() => Some(Self::AcceptLosses { partition: None }),
            "accept_losses" => partition().map(|one| Self::AcceptLosses { partition: Some(one) }),
            "register_group" => {
                group().map(|name| Self::RegisterGroup { name, from: StartsFrom::Start })
            }
            "retire_group" => group().map(|name| Self::RetireGroup { name, force }),
            _ => return None,
        };
        let missing = "there is nothing of this name to act on";
        Some(act.ok_or_else(|| Refusal::Missing(missing.to_owned())))
    }

    /// The name of what it is done to, as [`Self::named`] reads it.
    #[must_use]
    pub fn of(&self) -> String {
        match self {
            Self::Redrive { id, .. } | Self::Discard { id } => id.to_string(),
            Self::Assign { reference, .. } | Self::MarkForRefund { reference } => {
                reference.as_str().to_owned()
            }
            Self::Resolve { conflict } => conflict.to_string(),
            Self::Release { partition, .. } => partition.to_string(),
            Self::Unpark { customer, .. } => customer.as_str().to_owned(),
            Self::AcceptLosses { partition } => {
                partition.map_or_else(String::new, |partition| partition.to_string())
            }
            Self::RegisterGroup { name, .. } | Self::RetireGroup { name, .. } => name.clone(),
        }
    }

    #[must_use]
    pub fn words(&self) -> &'static Words {
        match self {
            Self::Redrive { .. } => &REDRIVE,
            Self::Discard { .. } => &DISCARD,
            Self::Assign { .. } => &ASSIGN,
            Self::MarkForRefund { .. } => &MARK_FOR_REFUND,
            Self::Resolve { .. } => &RESOLVE,
            Self::Release { force: false, .. } => &RELEASE,
            Self::Release { force: true, .. } => &TAKE_AWAY,
            Self::Unpark { .. } => &UNPARK,
            Self::AcceptLosses { partition: None } => &ACCEPT_ALL,
            Self::AcceptLosses { partition: Some(_) } => &ACCEPT_OF_ONE,
            Self::RegisterGroup { .. } => &REGISTER_GROUP,
            Self::RetireGroup { .. } => &RETIRE_GROUP,
        }
    }

    #[must_use]
    pub fn title(&self) -> String {
        self.words().title.replace("{}", &self.of())
    }

    #[must_use]
    pub fn label(&self) -> String {
        self.words().label.replace("{}", &self.of())
    }

    #[must_use]
    pub fn command(&self) -> String {
        self.words().command.replace("{}", &argument(&self.of()))
    }

    /// Whether it has to be said whose the payment is.
    #[must_use]
    pub fn asks_customer(&self) -> bool {
        matches!(self, Self::Assign { .. })
    }

    #[must_use]
    pub fn for_customer(self, whose: CustomerId) -> Self {
        if let Self::Assign { reference, .. } = self {
            Self::Assign { reference, customer: Some(whose) }
        } else {
            self
        }
    }

    pub(super) fn action(self) -> Action {
        let Words { code, because, .. } = *self.words();
        let (label, command) = (self.label(), Some(self.command()));
        Action { code, label, command, safe_because: because, act: Some(self) }
    }
}

/// Reads the name of a group that is not ours.
pub fn group_name(name: &str) -> Result<String, String> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if name == GROUP {
        return Err(format!("{GROUP} is ours: it is always registered and never retired"));
    }
    if !(1..=64).contains(&name.len()) || !name.bytes().all(fits) {
        return Err("a group has 1 to 64 letters, digits, dots, hyphens and underscores".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_act_is_read_back_from_its_code_and_the_name_of_its_object() {
        let mut codes = BTreeSet::new();
        for words in ALL {
            let of = if words.code == "resolve" { "7/3" } else { "7" };
            let act = Act::named(words.code, of, false).unwrap().unwrap();
            assert_eq!((act.words().code, &*act.of()), (words.code, of));
            assert!(act.command().contains(&format!(" {of}")), "{}", act.command());
            for text in [act.title(), act.label(), act.command()] {
                assert!(!text.contains("{}"), "{text}");
            }
            codes.insert(words.code);
        }
        assert_eq!(codes.len(), ALL.len());
        assert!(Act::named("explode", "7", false).is_none());
        assert!(matches!(Act::named("redrive", "x", false), Some(Err(Refusal::Missing(_)))));
    }

    #[test]
    fn names_from_outside_are_quoted_in_commands() {
        let reference = Reference::parse("a;reboot").unwrap();
        let command = Act::MarkForRefund { reference }.command();
        assert!(command.contains(" 'a;reboot' --"), "{command}");
    }
}
