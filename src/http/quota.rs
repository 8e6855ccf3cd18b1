//! How much one source may send and ask for: payments and references, not requests. Never waits:
//! what is too much is refused, with the time after which it is not.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

use super::{
    operator::Principal,
    problem::{Code, Problem},
    surface::Surface,
};

/// What a caller that was silent may send at once: the largest batch must fit.
const BURST_MIN: NonZeroU32 = NonZeroU32::new(10_000).unwrap();
const SIGN_INS_A_MINUTE_MAX: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// A gateway that was restarted has seen nobody's session yet, and many may share an address.
const UNSEEN_SESSIONS_A_MINUTE_MAX: NonZeroU32 = NonZeroU32::new(120).unwrap();
/// Callers that are counted, before those with a whole allowance are forgotten.
const CALLERS_MAX: usize = 10_000;
/// Names all who have no name of their own.
const NAMELESS: &str = "";

type Limiter = RateLimiter<
    Arc<str>,
    HashMapStateStore<Arc<str>>,
    MonotonicClock,
    NoOpMiddleware<<MonotonicClock as Clock>::Instant>,
>;

pub(crate) struct Quotas {
    limiter: Option<Limiter>,
}

impl Quotas {
    /// Without a rate everything is allowed.
    pub(super) fn new(per_second: Option<NonZeroU32>) -> Self {
        let limiter = per_second.map(|rate| {
            let quota = Quota::per_second(rate).allow_burst(rate.max(BURST_MIN));
            RateLimiter::hashmap_with_clock(quota, MonotonicClock)
        });
        Self { limiter }
    }

    /// Of one address at the console's door.
    pub(super) fn of_sign_ins() -> Self {
        Self::per_minute(SIGN_INS_A_MINUTE_MAX)
    }

    /// Of one address that shows ids of sessions.
    pub(super) fn of_unseen_sessions() -> Self {
        Self::per_minute(UNSEEN_SESSIONS_A_MINUTE_MAX)
    }

    fn per_minute(count: NonZeroU32) -> Self {
        let quota = Quota::per_minute(count);
        Self { limiter: Some(RateLimiter::hashmap_with_clock(quota, MonotonicClock)) }
    }

    /// Takes so many from what the caller may send; all of them or none.
    pub(super) fn take(&self, caller: &Principal, count: usize) -> Result<(), Problem> {
        if self.limiter.is_none() {
            return Ok(());
        }
        let name = caller.share(Surface::Api).unwrap_or_else(|| NAMELESS.into());
        let Some(wait) = self.wait(&name, count) else { return Ok(()) };
        let detail = format!(
            "this source sends more than it may; nothing was taken, send it again in {wait} s"
        );
        Err(Problem::new(Code::RateLimited, detail).retry_after(wait))
    }

    /// One attempt from there to sign in, or to have a session.
    pub(crate) fn attempt_from(&self, address: IpAddr) -> Result<(), Problem> {
        // Whoever has one address of version 6 has the 2^64 beside it.
        let from = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX)).into(),
        };
        let Some(wait) = self.wait(&from.to_string().into(), 1) else { return Ok(()) };
        let detail = format!("too many attempts to sign in from {address}; wait {wait} s");
        Err(Problem::new(Code::RateLimited, detail).retry_after(wait))
    }

    /// Takes so many of this name's, or says after how many seconds it could.
    fn wait(&self, name: &Arc<str>, count: usize) -> Option<u64> {
        let limiter = self.limiter.as_ref()?;
        let count = u32::try_from(count).ok().and_then(NonZeroU32::new)?;
        if limiter.len() >= CALLERS_MAX {
            limiter.retain_recent();
        }
        match limiter.check_key_n(name, count) {
            Ok(Ok(())) => None,
            Ok(Err(until)) => Some(until.wait_time_from(MonotonicClock.now()).as_secs() + 1),
            // No batch is that large.
            Err(_) => Some(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Source;

    #[test]
    fn a_caller_has_its_own_allowance_and_takes_all_of_a_batch_or_none() {
        let quotas = Quotas::new(NonZeroU32::new(1));
        let of = |source: &str| Principal::of_source(&Source::parse(source).unwrap());
        let (a, b) = (of("a"), of("b"));
        assert!(quotas.take(&a, 9_000).is_ok());
        let refused = quotas.take(&a, 2_000).unwrap_err();
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(quotas.take(&a, 900).is_ok(), "nothing was taken by what was refused");
        for other in [&b, &Principal::default()] {
            assert!(quotas.take(other, 10_000).is_ok(), "it is not another's");
            assert!(quotas.take(other, 0).is_ok());
            assert!(quotas.take(other, 500).is_err());
        }
    }

    #[test]
    fn without_a_rate_everything_is_allowed() {
        let quotas = Quotas::new(None);
        assert!((0..100).all(|_| quotas.take(&Principal::named("a"), 10_000).is_ok()));
    }
}
