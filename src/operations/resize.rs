//! Changes the number of partitions, or the Redis that they are in.
//!
//! Customers move between partitions when their number changes, so a payment is
//! accepted under the new number only when everything accepted under the old
//! one is settled: close, wait, begin, seal, switch, remove. What is done is
//! written down before the next step, each step can be done again, and the same
//! act again goes on where it stopped. Never moves an entry.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Act, Acted, Answer, Error, Operations, Refusal, Signature,
    error::Context,
    shapes::{counted, span},
};
use crate::{
    ledger::{Resize, Topology},
    stream::{Gates, Streams},
};

/// Between two looks at what is still waiting.
const LOOK: Duration = Duration::from_millis(200);

/// How far workers are with what was accepted under the old number.
#[derive(Clone, Copy, Debug)]
pub struct DrainProgress {
    pub waiting: u64,
    pub has_workers: bool,
}

/// Why a change goes no further.
enum Stop {
    Refused(String),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// A change of the number of partitions, while nobody else makes one.
struct Change<'a> {
    operations: &'a Operations,
    by: &'a Signature,
    right: Resize,
    /// The topology as it is before the switch.
    from: Topology,
}

impl Operations {
    pub(super) async fn resize(
        &self,
        to: u16,
        drain_timeout: Duration,
        by: &Signature,
    ) -> Result<Acted<Answer>, Error> {
        let changing = async {
            let mut change = self.begin_change(by).await?;
            let Topology { partitions, resizing_to, .. } = change.from;
            if to == partitions && resizing_to.is_none() && self.moving_to.is_none() {
                let sentence = format!("the topology has {to} partitions");
                return Ok(change.finish(sentence, json!({ "partitions": to })).await);
            }
            change.declare(to).await?;
            let highest = change.drain(drain_timeout).await?;
            change.switch(to, highest).await?;
            let sentence = match &self.moving_to {
                Some(_) => "the payments are taken to the new Redis: start every process with its \
                            address in PAYSTREAM_REDIS_URL. Those with the old one stop by themselves"
                    .to_owned(),
                None => format!(
                    "the topology has {to} partitions, was {partitions}; processes with \
                     PAYSTREAM_PARTITIONS={partitions} need the new number"
                ),
            };
            Ok(change.finish(sentence, json!({ "partitions": to, "was": partitions })).await)
        };
        answered(changing.await)
    }

    pub(super) async fn abort_resize(&self, by: &Signature) -> Result<Acted<Answer>, Error> {
        let aborting = async {
            let mut change = self.begin_change(by).await?;
            if change.from.resizing_to.is_none() {
                return Err(Stop::Refused("no change of the topology is under way".to_owned()));
            }
            change.abort().await?;
            let partitions = change.from.partitions;
            let sentence = format!("given up; the topology keeps its {partitions} partitions");
            Ok(Answer::done("abort_resize", sentence, json!({ "partitions": partitions })))
        };
        answered(aborting.await)
    }

    /// Where the streams of the next generation are.
    fn next_streams(&self) -> &Streams {
        self.moving_to.as_ref().unwrap_or(&self.streams)
    }

    async fn begin_change<'a>(&'a self, by: &'a Signature) -> Result<Change<'a>, Stop> {
        let right = self.ledger.resize().await.context("could not begin")?;
        let right = right.ok_or_else(|| {
            let running = "another change of this topology is running: wait \
                           until it has ended";
            Stop::Refused(running.to_owned())
        })?;
        // Only now nobody else changes it.
        let from = self.current_topology().await?;
        Ok(Change { operations: self, by, right, from })
    }

    async fn current_topology(&self) -> Result<Topology, Error> {
        let topology = self.ledger.schema().topology(None, self.streams.key_prefix()).await;
        topology.context("could not read the topology")
    }
}

/// What a change that was interrupted is, and how it goes on. One to as many partitions as there
/// are is a move.
pub fn under_way(partitions: u16, to: u16) -> String {
    let (what, go_on) = match to == partitions {
        true => ("a move to another Redis".to_owned(), "paystream topology move".to_owned()),
        false => {
            let go_on = Act::Resize { to, drain_timeout: Duration::ZERO };
            (format!("a change to {to} partitions"), go_on.command())
        }
    };
    format!(
        "{what} is under way: go on with `{go_on}`, or give it up with `paystream topology resize \
         --abort`"
    )
}

fn answered(ended: Result<Answer, Stop>) -> Result<Acted<Answer>, Error> {
    match ended {
        Ok(answer) => Ok(Ok(answer)),
        Err(Stop::Refused(sentence)) => Ok(Err(Refusal::Impossible(sentence))),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Why payments cannot be taken from one Redis to this other one.
async fn unfit(old: &Streams, new: &Streams) -> Result<Option<String>, Error> {
    let found = new.unsafe_settings().await.context("could not reach the new Redis")?;
    if let Some(reason) = found.replica.or(found.evicts).or(found.loses) {
        return Ok(Some(format!("is not safe for payments: {reason}")));
    }
    let (old, new) = (gates(old).await?.runs().await?, gates(new).await?.runs().await?);
    let is_the_same = !old.is_disjoint(&new);
    Ok(is_the_same.then(|| "is the one in which the streams are".to_owned()))
}

async fn gates(streams: &Streams) -> Result<Gates, Error> {
    streams.gates().await.context("could not reach Redis")
}

impl Change<'_> {
    /// The streams before the switch.
    fn old(&self) -> Streams {
        self.operations.streams.of_topology(self.from.partitions, self.from.generation)
    }

    /// Writes down what is wanted, if it can be begun at all.
    async fn declare(&mut self, to: u16) -> Result<(), Stop> {
        let Topology { partitions, resizing_to, .. } = self.from;
        if resizing_to.is_none() && !self.right.has_workers().await? {
            let nobody = "no worker lives, so nothing would be settled: start one first";
            return Err(Stop::Refused(nobody.to_owned()));
        }
        // While Redis is away nothing could be closed.
        let reached = self.old().gates().await;
        reached.context("could not reach Redis, so nothing was changed")?;
        if let Some(new) = &self.operations.moving_to
            && let Some(reason) = unfit(&self.operations.streams, new).await?
        {
            return Err(Stop::Refused(format!("the new Redis {reason}; nothing was changed")));
        }
        if resizing_to == Some(partitions) && self.operations.moving_to.is_none() {
            return Err(Stop::Refused(under_way(partitions, partitions)));
        }
        self.refuse_used(to).await?;
        if self.right.wish(to, self.by).await.context("could not write down what is wanted")? {
            return Ok(());
        }
        Err(Stop::Refused(under_way(partitions, resizing_to.unwrap_or(partitions))))
    }

    /// The streams of the next generation hold nothing before the switch.
    async fn refuse_used(&self, to: u16) -> Result<(), Stop> {
        let new = self.operations.next_streams().of_topology(to, self.from.generation + 1);
        let are_empty = gates(&new).await?.are_empty().await;
        if are_empty.context("could not look at the new streams, so nothing was changed")? {
            return Ok(());
        }
        let used = "the new streams have entries that this ledger knows nothing of: another \
                    paystream uses that Redis under this key prefix. Nothing was changed";
        Err(Stop::Refused(used.to_owned()))
    }

    /// Closes the streams and waits until everything in them is settled; says the
    /// highest sequence that was given out.
    async fn drain(&mut self, timeout: Duration) -> Result<i64, Stop> {
        let streams = self.old();
        let given = gates(&streams).await?.close().await;
        let given = given.context("could not close the partitions")?;
        let upkeep = streams.upkeep().await.context("could not reach Redis")?;
        let began = Instant::now();
        loop {
            let depths = upkeep.all_depths().await;
            let depths = depths.context("could not see what waits; run it again")?;
            let waiting: i64 = depths.iter().map(|depth| depth.lag + depth.pending).sum();
            if waiting == 0 {
                break;
            }
            let has_workers = self.right.has_workers().await?;
            let waiting = u64::try_from(waiting).unwrap_or(0);
            (self.operations.on_drain)(DrainProgress { waiting, has_workers });
            if began.elapsed() > timeout {
                self.abort().await?;
                return Err(Stop::Refused(format!(
                    "not settled within {}: {}. The change is given up and payments are taken \
                     again. See that the workers work, then run it again",
                    span(timeout),
                    counted(waiting, "payment", "payments")
                )));
            }
            sleep(LOOK).await;
        }
        if let Some((partition, given, known)) = self.right.missing(&given).await?.first() {
            return Err(Stop::Refused(format!(
                "partition {partition} has given out sequence {given}, the ledger knows it up to \
                 {known}, and the stream holds nothing more: payments are missing. Give the change \
                 up with --abort and see `paystream audit`"
            )));
        }
        let known = self.right.highest_sequence().await.context("could not read the cursors")?;
        Ok(given.into_iter().max().unwrap_or(0).max(known))
    }

    /// Begins the new streams, and lets nothing lead back to the old ones.
    async fn switch(&mut self, to: u16, highest: i64) -> Result<(), Stop> {
        let generation = self.from.generation;
        let next = self.operations.next_streams();
        let new = next.of_topology(to, generation + 1);
        let (mut old, mut new) = (gates(&self.old()).await?, gates(&new).await?);
        let groups = old.groups().await.context("could not see which groups there are")?;
        let begun = new.begin(highest, &groups).await;
        begun.context("could not create the new streams; run it again")?;
        old.seal().await.context("could not close the old streams for good; run it again")?;
        if self.operations.moving_to.is_some() {
            let noted = old.note_moved(generation + 1).await;
            noted.context("could not note in the old Redis that it is left; run it again")?;
            let settled = new.note_moved(0).await;
            settled.context("could not note in the new Redis that it is used; run it again")?;
        }
        let in_cluster = next.are_in_a_cluster();
        let switched = self.right.switch(generation, to, highest, in_cluster, self.by).await;
        Ok(switched.context("could not switch; run it again")?)
    }

    async fn abort(&mut self) -> Result<(), Error> {
        let opened = gates(&self.old()).await?.open().await;
        opened.context(
            "the change cannot be given up any more: finish it by running it again without --abort",
        )?;
        let forgotten = self.right.forget(self.by).await;
        forgotten.context("payments are taken again, but the wish is still written down")
    }

    /// Says what was changed, and tidies up. What fails then is said, too, and undoes nothing.
    async fn finish(&mut self, sentence: String, mut facts: Value) -> Answer {
        let mut lines = vec![sentence];
        match self.tidy_up(&mut lines).await {
            Ok(given) => {
                facts["given"] = given.into();
                Answer::done("resize", lines.join("\n"), facts)
            }
            Err(error) => {
                lines.push(error.sentence());
                Answer::undone("resize", lines.join("\n"), facts)
            }
        }
    }

    /// Appends what was left in the streams of earlier topologies to the current ones, and
    /// removes them, unless a group still reads them; says how many payments it appended. A
    /// Redis that took over may have some that were removed.
    async fn tidy_up(&mut self, lines: &mut Vec<String>) -> Result<usize, Error> {
        let Operations { streams, ledger, clock, moving_to, .. } = self.operations;
        let now = self.operations.current_topology().await?;
        let mut given = 0;
        // A Redis that is left was drained just now.
        if moving_to.is_none() {
            let current = streams.of_topology(now.partitions, now.generation);
            let carried = Operations::new(&current, ledger, &now, *clock).carry_on().await;
            let (payments, stopped) =
                carried.context("could not look at old streams; run it again")?;
            given = payments;
            if given > 0 {
                let what = counted(given, "payment", "payments");
                lines
                    .push(format!("appended {what} of an earlier topology to the current streams"));
            }
            lines.extend(stopped);
        }
        for past in ledger.schema().past().await? {
            let mut gates = gates(&streams.of_topology(past.partitions, past.generation)).await?;
            let waiting = gates.remove().await;
            let waiting = waiting.context("could not remove old streams; run it again")?;
            if waiting.is_empty() {
                self.right.set_removed(past.generation).await?;
                continue;
            }
            let groups: Vec<String> = waiting.into_iter().collect();
            let remedy = match moving_to {
                Some(_) => "Keep the old Redis until they have",
                None => "Run it again later to remove them",
            };
            lines.push(format!(
                "streams of generation {} stay, because groups have not read all of them: {}. {remedy}",
                past.generation,
                groups.join(", ")
            ));
        }
        Ok(given)
    }
}
