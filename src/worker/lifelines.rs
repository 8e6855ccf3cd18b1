//! Finds out within a second that another worker has died: Redis drops the subscription of a
//! process that ends. A host that falls silent keeps its subscription; its lease covers that.
//! A worker that is taken for dead and lives is fenced, and gets its share back. Never takes
//! anything over.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::stream::{Error, Lifeline, Streams};

/// Between two questions.
const LOOK: Duration = Duration::from_millis(150);
/// Pause after its own connection was lost, or could not be made.
const PAUSE: Duration = Duration::from_millis(500);
/// Answers in a row that a worker is not connected, after one that it was.
const MISSES: u32 = 2;

/// What the ownership loop hears and says: incarnations of other workers.
pub(super) struct Lifelines {
    /// Those that are registered.
    pub(super) others: watch::Sender<Vec<String>>,
    /// Those that have died; bounded by `others`, of which each is told once.
    pub(super) died: mpsc::UnboundedReceiver<String>,
}

/// The other half, which asks.
pub(super) struct Watcher {
    others: watch::Receiver<Vec<String>>,
    died: mpsc::UnboundedSender<String>,
}

pub(super) fn lifelines() -> (Lifelines, Watcher) {
    let (others, registered) = watch::channel(Vec::new());
    let (tell, died) = mpsc::unbounded_channel();
    (Lifelines { others, died }, Watcher { others: registered, died: tell })
}

impl Watcher {
    /// Asks until `stop`. Knows nothing about others after a connection of its own was lost: one
    /// that Redis lost, or that another server answers, says nothing about them.
    pub(super) async fn run(self, streams: Streams, incarnation: String, stop: CancellationToken) {
        let mut told = false;
        let mut pauses = interval(PAUSE);
        pauses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(pauses.tick()).await.is_some() {
            let watching = async {
                let lifeline = streams.lifeline(&incarnation).await?;
                self.watch(lifeline).await
            };
            match stop.run_until_cancelled(watching).await {
                Some(Err(error @ Error::Forbidden(_))) if !told => {
                    warn!(
                        %error,
                        "this worker's user of Redis may not subscribe: a worker that dies is \
                         noticed when its lease ends. Give it the rights of docs/roles.md"
                    );
                    told = true;
                }
                Some(Err(error)) => debug!(%error, "the lifeline is lost; connecting again"),
                Some(Ok(())) | None => {}
            }
        }
    }

    /// Until the lifeline ends.
    async fn watch(&self, mut lifeline: Lifeline) -> Result<(), Error> {
        let mut seen = Seen::default();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = lifeline.ended() => return Ok(()),
                _ = looks.tick() => {}
            }
            let others = self.others.borrow().clone();
            let connected = lifeline.are_connected(&others).await?;
            for died in seen.note(&others, &connected) {
                // The ownership loop outlives this one.
                let _ = self.died.send(died);
            }
        }
    }
}

/// Workers that were connected, and how often in a row they were not since.
#[derive(Default)]
struct Seen(BTreeMap<String, u32>);

impl Seen {
    /// Notes who is connected now; returns those that have died.
    fn note(&mut self, others: &[String], connected: &[bool]) -> Vec<String> {
        self.0.retain(|seen, _| others.contains(seen));
        let mut died = Vec::new();
        for (other, connected) in others.iter().zip(connected) {
            if *connected {
                self.0.insert(other.clone(), 0);
            } else if let Some(misses) = self.0.get_mut(other) {
                *misses += 1;
                if *misses == MISSES {
                    died.push(other.clone());
                    self.0.remove(other);
                }
            }
        }
        died
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_connected_and_is_not_twice_has_died_once() {
        let others = ["a", "b", "c"].map(str::to_owned);
        let mut seen = Seen::default();
        let mut note = |connected: [bool; 3]| seen.note(&others, &connected);
        assert!(note([true, true, false]).is_empty());
        assert!(note([true, false, false]).is_empty(), "it may be connecting again");
        assert!(note([true, true, false]).is_empty());
        assert!(note([false, false, false]).is_empty());
        assert_eq!(note([true, false, false]), ["b"], "and c was never seen");
        assert!(note([true, false, false]).is_empty());
        assert!(note([true, true, false]).is_empty());
        assert!(note([true, false, true]).is_empty());
        assert_eq!(note([true, false, true]), ["b"], "once it was seen again");
    }
}
