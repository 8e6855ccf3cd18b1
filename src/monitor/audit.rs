//! The running audit: asks the ledger for slice after slice at a pace, and
//! remembers which accounts differed when they were last looked at. Never takes
//! more than a tenth of one connection's time. Never mends anything.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::{Monitor, guarded, samples};
use crate::{
    ledger::{Rounds, Slice},
    telemetry::GaugeSource,
};

/// Between two slices, as far as the pace allows.
const SLICE_EVERY: Duration = Duration::from_secs(4);
/// Accounts in one slice.
const SLICE_ACCOUNTS_MAX: u32 = 1_000;
/// The least pause between two slices,
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// and after a round.
const ROUND_PAUSE: Duration = Duration::from_secs(5);
/// A pause is at least so many times as long as the slice before it took.
const PAUSE_FACTOR: u32 = 9;
/// Before it is tried again, after a failure or while another process audits.
const RETRY: Duration = Duration::from_secs(30);
/// Accounts that are remembered as differing.
const REMEMBERED_MAX: usize = 10_000;

/// Audits for ever; ends at once when it is turned off.
pub(super) async fn keep_auditing(monitor: &Monitor, mut rounds: Rounds) {
    let Some(pace) = Pace::new(monitor.audit_pace) else { return };
    let mut found = AccountDrift::new(Instant::now());
    loop {
        let began = Instant::now();
        let next = guarded(rounds.next(pace.accounts())).await;
        let now = Instant::now();
        let pause = match next {
            Some(Ok(Some(slice))) => {
                found.take(&slice, now);
                monitor.saw(GaugeSource::Audit, samples::audit(found.differing.len(), found.since));
                pace.pause(&slice, now.saturating_duration_since(began))
            }
            Some(Ok(None)) => {
                found = AccountDrift::new(now);
                monitor.saw(GaugeSource::Audit, Vec::new());
                RETRY
            }
            Some(Err(error)) => {
                debug!(%error, "the running audit could not go on; trying again");
                RETRY
            }
            None => RETRY,
        };
        sleep(pause).await;
    }
}

/// How fast it may go.
#[derive(Clone, Copy, Debug)]
struct Pace {
    accounts_a_second: u32,
}

impl Pace {
    fn new(accounts_a_second: u32) -> Option<Self> {
        (accounts_a_second > 0).then_some(Self { accounts_a_second })
    }

    /// Accounts of one slice.
    fn accounts(self) -> u32 {
        let seconds = u32::try_from(SLICE_EVERY.as_secs()).unwrap_or(1);
        self.accounts_a_second.saturating_mul(seconds).min(SLICE_ACCOUNTS_MAX)
    }

    /// How long to rest after a slice that took so long.
    fn pause(self, slice: &Slice, took: Duration) -> Duration {
        let due = Duration::from_secs(slice.accounts) / self.accounts_a_second;
        let least = if slice.before.is_none() { ROUND_PAUSE } else { PAUSE_MIN };
        due.max(took.saturating_mul(PAUSE_FACTOR)).max(least)
    }
}

/// What was found so far.
#[derive(Debug)]
struct AccountDrift {
    /// Customers whose accounts differed when they were last looked at.
    differing: BTreeSet<String>,
    /// When the last round was complete, or the first one began.
    since: Instant,
}

impl AccountDrift {
    fn new(since: Instant) -> Self {
        Self { differing: BTreeSet::new(), since }
    }

    /// Takes what a slice says in place of what was known of its accounts. Says
    /// once that there is drift, and once that there is none any more.
    fn take(&mut self, slice: &Slice, now: Instant) {
        let before = self.differing.len();
        if slice.left_out {
            warn!(
                from = slice.from,
                "accounts took the running audit too long and were left out: run `paystream audit`"
            );
        } else {
            self.differing.retain(|customer| !slice.covers(customer));
            let room = REMEMBERED_MAX.saturating_sub(self.differing.len());
            self.differing.extend(slice.differing.iter().take(room).cloned());
        }
        if slice.before.is_none() {
            self.since = now;
        }
        let accounts = self.differing.len();
        if before == 0 && accounts > 0 {
            error!(accounts, "accounts differ from their payments: run `paystream audit`");
        } else if before > 0 && accounts == 0 {
            info!("no account differs from its payments any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(from: &str, before: Option<&str>, differing: &[&str]) -> Slice {
        Slice {
            from: from.to_owned(),
            before: before.map(str::to_owned),
            accounts: 200,
            differing: differing.iter().map(ToString::to_string).collect(),
            left_out: false,
        }
    }

    #[test]
    fn the_last_look_at_an_account_counts() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut found = AccountDrift::new(start);
        found.take(&slice("", Some("M"), &["ADA", "BOB"]), later(1));
        assert_eq!((found.differing.len(), found.since), (2, start));
        found.take(&slice("M", None, &["ZOE"]), later(2));
        assert_eq!((found.differing.len(), found.since), (3, later(2)));
        // One was mended, and slices need not be cut as they were.
        found.take(&slice("", Some("B"), &[]), later(3));
        assert_eq!(found.differing.len(), 2);
        let left_out = Slice { left_out: true, ..slice("B", None, &[]) };
        found.take(&left_out, later(4));
        assert_eq!((found.differing.len(), found.since), (2, later(4)));
        found.take(&slice("B", None, &[]), later(5));
        assert_eq!(found.differing.len(), 0);
    }

    #[test]
    fn it_rests_by_its_pace_and_by_what_a_slice_cost() {
        assert!(Pace::new(0).is_none());
        let pace = Pace::new(50).unwrap();
        assert_eq!(pace.accounts(), 200);
        assert_eq!(Pace::new(10_000).unwrap().accounts(), SLICE_ACCOUNTS_MAX);
        let (middle, end) = (slice("", Some("B"), &[]), slice("B", None, &[]));
        let seconds = Duration::from_secs;
        assert_eq!(pace.pause(&middle, Duration::ZERO), seconds(4));
        assert_eq!(pace.pause(&middle, seconds(2)), seconds(18));
        assert_eq!(pace.pause(&end, Duration::ZERO), ROUND_PAUSE);
        let fast = Pace::new(10_000).unwrap();
        assert_eq!(fast.pause(&middle, Duration::ZERO), PAUSE_MIN);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let names: Vec<String> = (0..=REMEMBERED_MAX).map(|number| number.to_string()).collect();
        let mut found = AccountDrift::new(Instant::now());
        found.take(&Slice { differing: names, ..slice("", None, &[]) }, Instant::now());
        assert_eq!(found.differing.len(), REMEMBERED_MAX);
    }
}
