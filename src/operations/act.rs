//! What an operator changes, as one value: its object and its parameters. The command
//! line, the API and the console read an [`Act`] from what they are told; `perform`
//! makes it. How it is asked for is in `question`.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Acted, ConflictName, Refusal, names,
    question::{self, ActQuestion},
};
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
    /// Changes the number of partitions, or goes on with that; given up when workers
    /// have not settled in time what was accepted.
    Resize {
        to: u16,
        drain_timeout: Duration,
    },
    /// Gives up a change of the number of partitions.
    AbortResize,
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

impl Act {
    /// The act that a code and the name of its object say, as forms and links do;
    /// nothing when there is no such act. Those that change the number of partitions are
    /// left out: they take minutes and end the process that would show the page.
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
            Self::Resize { to, .. } => to.to_string(),
            Self::AbortResize => String::new(),
        }
    }

    #[must_use]
    pub fn question(&self) -> &'static ActQuestion {
        match self {
            Self::Redrive { .. } => &question::REDRIVE,
            Self::Discard { .. } => &question::DISCARD,
            Self::Assign { .. } => &question::ASSIGN,
            Self::MarkForRefund { .. } => &question::MARK_FOR_REFUND,
            Self::Resolve { .. } => &question::RESOLVE,
            Self::Release { force: false, .. } => &question::RELEASE,
            Self::Release { force: true, .. } => &question::TAKE_AWAY,
            Self::Unpark { .. } => &question::UNPARK,
            Self::AcceptLosses { partition: None } => &question::ACCEPT_ALL,
            Self::AcceptLosses { partition: Some(_) } => &question::ACCEPT_OF_ONE,
            Self::RegisterGroup { .. } => &question::REGISTER_GROUP,
            Self::RetireGroup { .. } => &question::RETIRE_GROUP,
            Self::Resize { .. } => &question::RESIZE,
            Self::AbortResize => &question::ABORT_RESIZE,
        }
    }

    #[must_use]
    pub fn title(&self) -> String {
        self.question().title.replace("{}", &self.of())
    }

    #[must_use]
    pub fn label(&self) -> String {
        self.question().label.replace("{}", &self.of())
    }

    #[must_use]
    pub fn command(&self) -> String {
        self.question().command.replace("{}", &argument(&self.of()))
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
        let ActQuestion { code, because, .. } = *self.question();
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
        for words in question::NAMED {
            let of = if words.code == "resolve" { "7/3" } else { "7" };
            let act = Act::named(words.code, of, false).unwrap().unwrap();
            assert_eq!((act.question().code, &*act.of()), (words.code, of));
            assert!(act.command().contains(&format!(" {of}")), "{}", act.command());
            for text in [act.title(), act.label(), act.command()] {
                assert!(!text.contains("{}"), "{text}");
            }
            codes.insert(words.code);
        }
        assert_eq!(codes.len(), question::NAMED.len());
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
