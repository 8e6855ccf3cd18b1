//! What must hold of payments, as statements over plain records: what clients sent and were
//! answered, what the ledger has, what is listed as lost. The simulator and the storm collect
//! such records, each in its own way, and ask the same questions of them.
//!
//! Knows nothing of paystream, depends on nothing, and never asks a store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Where an entry was put: the number of its partition, and its own there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub partition: u32,
    pub sequence: i64,
}

/// A payment as its client remembers it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub reference: String,
    /// Who sent it. A client waits for an answer before it sends the next of a customer.
    pub client: u32,
    pub customer: String,
    pub cents: i64,
    /// Each time that it was told that the payment is taken.
    pub answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The count of this client's answers; payments of one batch count in their order.
    pub turn: u64,
    pub place: Place,
}

/// A row of the ledger by which money moved.
#[derive(Clone, Debug)]
pub struct Effect {
    pub reference: String,
    pub customer: String,
    pub cents: i64,
    pub place: Place,
    /// The version of the customer's account that it made.
    pub version: i64,
}

/// Sequences that are listed as lost, first and last.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub partition: u32,
    pub first: i64,
    pub last: i64,
}

#[derive(Clone, Debug)]
pub struct Account {
    pub customer: String,
    pub cents: i64,
    pub version: i64,
}

/// What waits in a partition.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    pub partition: u32,
    pub lag: u64,
    pub pending: u64,
}

/// All of a run, after everything was left to come to rest.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub sent: Vec<Sent>,
    pub effects: Vec<Effect>,
    pub losses: Vec<Loss>,
    pub accounts: Vec<Account>,
    pub backlogs: Vec<Backlog>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statement {
    /// Every accepted payment has one effect, or is listed as lost; none has two.
    OneEffect,
    /// Effects on a customer are in the order in which its client was answered.
    Order,
    /// Nothing moved money that no client sent so.
    OnlySent,
    /// Accounts are what their statements add up to, and versions are 1, 2, 3, ….
    Balances,
    /// Nothing waits.
    AtRest,
}

/// A statement that does not hold, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub statement: Statement,
    /// The reference, or the customer or partition where it is about one.
    pub of: String,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}: {}: {}", self.statement, self.of, self.what)
    }
}

impl Records {
    /// Everything that does not hold.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = self.one_effect();
        found.extend(self.order());
        found.extend(self.only_sent());
        found.extend(self.balances());
        found.extend(self.at_rest());
        found
    }

    /// [`Statement::OneEffect`].
    pub fn one_effect(&self) -> Vec<Violation> {
        let mut effects: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
        for effect in &self.effects {
            effects.entry(&effect.reference).or_default().push(effect.place);
        }
        let twice = effects.iter().filter(|(_, places)| places.len() > 1);
        let mut found: Vec<Violation> = twice
            .map(|(reference, places)| {
                violation(Statement::OneEffect, reference, format!("has effects at {places:?}"))
            })
            .collect();
        for sent in &self.sent {
            // One that was lost and then sent again has its effect elsewhere.
            if effects.contains_key(sent.reference.as_str()) {
                continue;
            }
            if let Some(answer) = sent.answers.iter().find(|answer| !self.is_lost(answer.place)) {
                let place = answer.place;
                let what = format!("was accepted at {place:?}, has no effect and is not listed");
                found.push(violation(Statement::OneEffect, &sent.reference, what));
            }
        }
        found
    }

    /// [`Statement::Order`]. A payment counts from the answer that named the entry which had the
    /// effect: it may have been lost, and accepted anew behind others.
    pub fn order(&self) -> Vec<Violation> {
        let sent: BTreeMap<(&str, &str), &Sent> =
            self.sent.iter().map(|sent| (key(&sent.reference, &sent.customer), sent)).collect();
        let mut effects: Vec<&Effect> = self.effects.iter().collect();
        effects.sort_by_key(|effect| (&effect.customer, effect.version));
        let mut found = Vec::new();
        let mut before: BTreeMap<(u32, &str), (u64, &Effect)> = BTreeMap::new();
        for effect in effects {
            let sent = sent.get(&key(&effect.reference, &effect.customer));
            let Some(sent) = sent else { continue };
            // Of two entries of one payment, or of one batch, the first may be lost. Then the
            // stream has what was sent again behind what was sent after it.
            let lost = self.losses.iter().any(|one| one.partition == effect.place.partition);
            let named = sent.answers.iter().find(|answer| answer.place == effect.place);
            let Some(answer) = named.or(sent.answers.first()).filter(|_| !lost || named.is_some())
            else {
                continue;
            };
            let (turn, client) = (answer.turn, (sent.client, effect.customer.as_str()));
            let last = before.get(&client).copied();
            match last.filter(|(last, _)| *last > turn) {
                None => {
                    before.insert(client, (turn, effect));
                }
                // An old copy brought back what had been listed.
                Some(_) if self.is_lost(effect.place) => {}
                Some((_, earlier)) if lost && earlier.place < effect.place => {}
                Some((_, Effect { reference, .. })) => {
                    let what =
                        format!("was answered before {reference}, and had its effect after it");
                    found.push(violation(Statement::Order, &effect.reference, what));
                }
            }
        }
        found
    }

    /// [`Statement::OnlySent`].
    pub fn only_sent(&self) -> Vec<Violation> {
        let sent: BTreeSet<((&str, &str), i64)> = self
            .sent
            .iter()
            .map(|sent| (key(&sent.reference, &sent.customer), sent.cents))
            .collect();
        let wrong = self.effects.iter().filter(|effect| {
            !sent.contains(&(key(&effect.reference, &effect.customer), effect.cents))
        });
        wrong
            .map(|Effect { reference, customer, cents, .. }| {
                let what = format!("moved {cents} of {customer}, and nobody sent it so");
                violation(Statement::OnlySent, reference, what)
            })
            .collect()
    }

    /// [`Statement::Balances`].
    pub fn balances(&self) -> Vec<Violation> {
        let mut statements: BTreeMap<&str, (i64, BTreeSet<i64>, i64)> = BTreeMap::new();
        for effect in &self.effects {
            let (cents, versions, rows) = statements.entry(&effect.customer).or_default();
            *cents += effect.cents;
            *rows += 1;
            versions.insert(effect.version);
        }
        let mut found = Vec::new();
        for account in &self.accounts {
            let statement = statements.remove(account.customer.as_str()).unwrap_or_default();
            let (cents, versions, rows) = statement;
            if (account.cents, account.version) != (cents, rows) {
                let what = format!(
                    "has {} at version {}, and its {rows} rows add up to {cents}",
                    account.cents, account.version
                );
                found.push(violation(Statement::Balances, &account.customer, what));
            }
            if !versions.iter().copied().eq(1..=rows) {
                let what = format!("has {rows} rows of the versions {versions:?}");
                found.push(violation(Statement::Balances, &account.customer, what));
            }
        }
        for (customer, (cents, ..)) in statements {
            let what = format!("has rows of {cents} and no account");
            found.push(violation(Statement::Balances, customer, what));
        }
        found
    }

    /// [`Statement::AtRest`].
    pub fn at_rest(&self) -> Vec<Violation> {
        let waits = self.backlogs.iter().filter(|one| (one.lag, one.pending) != (0, 0));
        waits
            .map(|Backlog { partition, lag, pending }| {
                let what = format!("{lag} entries wait, and {pending} are pending");
                violation(Statement::AtRest, &format!("partition {partition}"), what)
            })
            .collect()
    }

    fn is_lost(&self, place: Place) -> bool {
        let holds = |loss: &Loss| {
            loss.partition == place.partition && (loss.first..=loss.last).contains(&place.sequence)
        };
        self.losses.iter().any(holds)
    }
}

fn key<'a>(reference: &'a str, customer: &'a str) -> (&'a str, &'a str) {
    (reference, customer)
}

fn violation(statement: Statement, of: &str, what: String) -> Violation {
    Violation { statement, of: of.to_owned(), what }
}

#[cfg(test)]
mod tests;
