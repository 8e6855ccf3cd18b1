//! Inspection of a lane's partitions in Redis: a group may have been moved, entries left pending,
//! or state lost. Never takes or settles an entry.

use std::time::Duration;

use tokio::time::Instant;

use super::{Lane, Step};
use crate::{
    domain::Fence,
    worker::{error::Error, held::Phase, recovery, rewind},
};

/// Interval of inspections, however busy the lane is.
const INSPECT_EVERY: Duration = Duration::from_secs(2);

impl Lane {
    /// Inspects when no new entry arrived: a group may have been moved back, or entries left
    /// pending.
    pub(super) async fn look_around(&mut self) -> Result<Step, Error> {
        let empty = self.inspect().await?;
        Ok(if empty { Step::Idle } else { Step::Stuck })
    }

    /// Compares with the state in Redis, and recovers lost state. Returns whether no entry waits.
    async fn inspect(&mut self) -> Result<bool, Error> {
        let link = self.link.as_mut().ok_or(Error::NotConnected)?;
        let fences: Vec<Fence> = self.held.values().map(|held| held.fence).collect();
        let states = link.consumer.states(&fences).await?;
        let mut empty = true;
        for (fence, state) in fences.iter().zip(states) {
            let Some(held) = self.held.get_mut(&fence.partition) else { continue };
            // Before anything is brought back: what was settled until then is seen.
            if held.history != state.history {
                recovery::note(link, *fence, &state).await?;
                held.history.clone_from(&state.history);
            }
            // Given out before this look began, so it is settled if nothing waits.
            let (known, finding) = (held.sequence, recovery::finding(&state, held.sequence));
            let is_sound = finding.is_none();
            held.quiet = None;
            if let Some(finding) = finding {
                let seen = (&state, held.sequence);
                held.sequence = recovery::recover(link, *fence, seen, &finding).await?;
                held.phase = Phase::Reclaiming(None);
            }
            held.sequence = held.sequence.max(state.sequence.unwrap_or(0));
            let Some(position) = state.position else { continue };
            let nothing_waits = position.pending == 0 && position.lag == 0;
            empty &= nothing_waits;
            held.quiet = (is_sound && nothing_waits).then_some(known);
            if let Phase::Taking { full, .. } = held.phase {
                held.phase = match position.pending {
                    0 => {
                        let full = full && position.lag > 0;
                        Phase::Taking { last_id: position.last_id, full }
                    }
                    _ => Phase::Reclaiming(None),
                };
            }
        }
        Ok(empty)
    }

    /// Records entries missing at the end of a stream, behind which no entry shows the gap.
    /// Comes after the check for lost commits.
    async fn note_missing(&mut self) -> Result<(), Error> {
        let link = self.link.as_mut().ok_or(Error::NotConnected)?;
        for held in self.held.values_mut() {
            let is_taking = matches!(held.phase, Phase::Taking { .. });
            let quiet = held.quiet.filter(|given| is_taking && *given > held.accounted);
            let Some(given) = quiet else { continue };
            let gaps = link.writer.note_missing(held.fence, given).await?;
            link.lose(&gaps).await?;
            held.accounted = given;
        }
        Ok(())
    }

    /// Inspects every two seconds, and notes the highest sequences in the ledger, which a later
    /// owner compares with.
    pub(super) async fn inspect_in_turn(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.looked_at.is_some_and(|at| now < at + INSPECT_EVERY) {
            return Ok(());
        }
        let link = self.link.as_mut().ok_or(Error::NotConnected)?;
        rewind::look(link, &mut self.held).await?;
        self.inspect().await?;
        self.note_missing().await?;
        self.looked_at = Some(now);
        let ahead = self.held.values().filter(|held| held.noted < held.sequence);
        let heads: Vec<(Fence, i64)> = ahead.map(|held| (held.fence, held.sequence)).collect();
        if heads.is_empty() {
            return Ok(());
        }
        let link = self.link.as_mut().ok_or(Error::NotConnected)?;
        link.writer.note_heads(&heads).await?;
        for held in self.held.values_mut() {
            held.noted = held.sequence;
        }
        Ok(())
    }
}
