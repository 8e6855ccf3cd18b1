//! Logs who was refused and what operators look at, for whoever watches over the service. Never
//! logs a token, a body or a name in a path of callers; and no more lines than a disk bears.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::http::Method;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tracing::{info, warn};

use super::{operator::Principal, peer::Peer, problem::Problem, surface::Surface};

const LINES_A_SECOND_MAX: NonZeroU32 = NonZeroU32::new(50).unwrap();

/// Refusals have a bound of their own: whoever is refused must not be able to hide what
/// operators do.
#[derive(Default)]
pub(crate) struct SecurityLog {
    refusals: Lines,
    operators: Lines,
}

struct Lines {
    limiter: DefaultDirectRateLimiter,
    /// Since the last one that was logged.
    left_out: AtomicU64,
}

impl Default for Lines {
    fn default() -> Self {
        let limiter = RateLimiter::direct(Quota::per_second(LINES_A_SECOND_MAX));
        Self { limiter, left_out: AtomicU64::new(0) }
    }
}

impl Lines {
    fn within_bound(&self, log: impl FnOnce(u64)) {
        match self.limiter.check() {
            Ok(()) => log(self.left_out.swap(0, Ordering::Relaxed)),
            Err(_) => _ = self.left_out.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl SecurityLog {
    pub(super) fn refused(&self, problem: &Problem, surface: Surface, peer: Option<Peer>) {
        self.refusals.within_bound(|left_out| {
            let (code, detail) = (problem.code().as_str(), problem.detail());
            let address = address(peer);
            warn!(code, detail, ?surface, address, left_out, "security: refused");
        });
    }

    /// An operator asks for something. Paths and queries of the operators' API and the console
    /// name payments and customers: whose data was looked at is what is to be known.
    pub(super) fn asked(
        &self,
        operator: &Principal,
        method: &Method,
        path: &str,
        peer: Option<Peer>,
    ) {
        self.operators.within_bound(|left_out| {
            let (name, address) = (operator.name.as_deref(), address(peer));
            info!(operator = name, %method, path, address, left_out, "security: operator");
        });
    }

    pub(crate) fn signed_in(&self, operator: Result<&Principal, &Problem>, peer: Peer) {
        let lines = if operator.is_ok() { &self.operators } else { &self.refusals };
        lines.within_bound(|left_out| {
            let address = address(Some(peer));
            match operator {
                Ok(Principal { name, .. }) => {
                    info!(operator = name.as_deref(), address, left_out, "security: signed in");
                }
                Err(problem) => {
                    let detail = problem.detail();
                    warn!(detail, address, left_out, "security: sign-in refused");
                }
            }
        });
    }

    pub(crate) fn signed_out(&self, operator: &str, peer: Peer) {
        self.operators.within_bound(|left_out| {
            info!(operator, address = address(Some(peer)), left_out, "security: signed out");
        });
    }

    /// A session that somebody still shows is not good any more.
    pub(super) fn session_ended(&self, operator: &str, why: &'static str, peer: Option<Peer>) {
        self.operators.within_bound(|left_out| {
            info!(operator, why, address = address(peer), left_out, "security: session ended");
        });
    }
}

fn address(peer: Option<Peer>) -> String {
    peer.map(|peer| peer.address).map_or_else(String::new, |address: IpAddr| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_logged_line_by_line() {
        let log = SecurityLog::default();
        let mut lines = 0;
        (0..1_000).for_each(|_| log.refusals.within_bound(|_| lines += 1));
        assert!((50..1_000).contains(&lines), "{lines}");
        assert_eq!(log.refusals.left_out.load(Ordering::Relaxed), 1_000 - lines);
        let mut seen = false;
        log.operators.within_bound(|_| seen = true);
        assert!(seen, "operators are logged all the same");
    }
}
