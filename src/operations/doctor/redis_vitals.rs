//! Judges how Redis is. Pure: vitals go in, findings come out.

use std::time::Duration;

use crate::{
    operations::{
        Severity::{self, Critical, Warning},
        finding::{self as kind, Finding},
    },
    stream::{Presence, RedisVitals},
};

use super::words::{above, bytes, numbered, percent};

/// Slower than this is no network of one place, or an overloaded machine.
const SLOW: Duration = Duration::from_millis(100);
/// Streams count the entries ever added from here on.
const OLDEST: (u32, u32) = (7, 0);
/// Shares of memory and connections, in percent.
const MEMORY_WARNING: u64 = 75;
const MEMORY_CRITICAL: u64 = 90;
const CLIENTS_WARNING: u64 = 80;

/// Everything about the server itself. `unsafe_allowed`: whether the settings
/// allow a Redis that loses.
pub(super) fn judge(vitals: &RedisVitals, unsafe_allowed: bool) -> Vec<Finding> {
    let RedisVitals { latency: took, version, unsafe_settings, clients, clients_max, .. } = vitals;
    if vitals.loading {
        let sentence = "Redis reads its data back and answers nothing else meanwhile";
        return vec![kind::REDIS_LOADING.found(Critical, sentence)];
    }
    let slow = format!("Redis takes {took:.1?} for a question and its answer");
    let (major, minor) = OLDEST;
    let old = format!("Redis is {version}; below {major}.{minor} it does not tell how much waits");
    let replica = "this Redis is a replica of another one and takes no payments";
    let used = percent(*clients, *clients_max);
    let in_use = format!("{clients} of {clients_max} connections are in use");
    let refused = format!("{in_use}; {} were refused since it started", vitals.rejected);
    vec![
        kind::REDIS_SLOW
            .judge((*took > SLOW).then_some((Warning, slow)))
            .or(format!("answers in {took:.1?}")),
        kind::REDIS_OLD
            .judge((number(version) < OLDEST).then_some((Warning, old)))
            .or(format!("is version {version}")),
        kind::REDIS_EVICTS.judge(unsafe_settings.evicts.clone().map(|why| (Critical, why))),
        kind::REDIS_LOSES.judge(unsafe_settings.loses.as_ref().map(|why| match unsafe_allowed {
            true => (Warning, format!("{why} (PAYSTREAM_ALLOW_UNSAFE_REDIS accepts that)")),
            false => (Critical, why.clone()),
        })),
        kind::REDIS_REPLICA.judge(vitals.replica.then(|| (Critical, replica.to_owned()))),
        kind::REDIS_WRITES.judge(failed_write(vitals)),
        memory(vitals),
        kind::REDIS_CLIENTS
            .judge((used >= CLIENTS_WARNING).then_some((Warning, refused)))
            .or(in_use),
    ]
}

fn number(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn failed_write(vitals: &RedisVitals) -> Option<(Severity, String)> {
    let failed = [
        (vitals.append_ok, Critical, "its last write to the append-only file"),
        (vitals.snapshot_ok, Critical, "its last snapshot, after which it refuses writes"),
        (vitals.rewrite_ok, Warning, "its last try to write the append-only file anew"),
    ];
    let (_, severity, what) = failed.into_iter().find(|(ok, ..)| !ok)?;
    Some((severity, format!("Redis could not write to its disk: {what} failed")))
}

fn memory(vitals: &RedisVitals) -> Finding {
    let (used, most) = (vitals.memory_used, vitals.memory_max);
    let share = percent(used, most);
    let of = if vitals.memory_limited { "its maxmemory" } else { "the machine's memory" };
    let sentence = format!("uses {share} % of {of}: {} of {}", bytes(used), bytes(most));
    let severity = above(share, MEMORY_WARNING, MEMORY_CRITICAL);
    let found = severity.map(|severity| (severity, format!("Redis {sentence}")));
    kind::REDIS_MEMORY.judge(found).or(sentence)
}

/// Whether every partition has its stream and our group.
pub(super) fn streams(presence: &[Presence]) -> [Finding; 2] {
    let without = |has: fn(&Presence) -> bool| -> Vec<u16> {
        presence.iter().filter(|one| !has(one)).map(|one| one.partition).collect()
    };
    let (streams, groups) = (without(|one| one.stream), without(|one| one.group || !one.stream));
    let stream = format!("the stream of {} is missing in Redis", numbered(&streams));
    let group = format!("our group is missing on {}", numbered(&groups));
    let all = format!("all {} partitions have one", presence.len());
    [
        kind::STREAMS.judge((!streams.is_empty()).then_some((Critical, stream))).or(all.clone()),
        kind::GROUP_OURS.judge((!groups.is_empty()).then_some((Critical, group))).or(all),
    ]
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::stream::Unsafe;

    fn healthy() -> RedisVitals {
        RedisVitals {
            latency: Duration::from_micros(300),
            now: DateTime::UNIX_EPOCH,
            version: "7.0.15".to_owned(),
            loading: false,
            replica: false,
            unsafe_settings: Unsafe::default(),
            memory_used: 749,
            memory_max: 1000,
            memory_limited: true,
            append_ok: true,
            rewrite_ok: true,
            snapshot_ok: true,
            clients: 79,
            clients_max: 100,
            rejected: 0,
            directory: None,
        }
    }

    /// What is not as it should be.
    fn bad(vitals: &RedisVitals, allowed: bool) -> Vec<(&'static str, Severity)> {
        let findings = judge(vitals, allowed).into_iter();
        let bad = findings.filter(|one| one.severity > Severity::Good);
        bad.map(|one| (one.code, one.severity)).collect()
    }

    #[test]
    fn a_healthy_redis_has_no_finding() {
        assert_eq!(bad(&healthy(), false), []);
    }

    #[test]
    fn each_finding_has_two_sides() {
        let loses = Unsafe { loses: Some("why".to_owned()), ..Unsafe::default() };
        let evicts = Unsafe { evicts: Some("why".to_owned()), ..Unsafe::default() };
        let slow = SLOW + Duration::from_nanos(1);
        let cases = [
            (RedisVitals { latency: SLOW, ..healthy() }, None),
            (RedisVitals { latency: slow, ..healthy() }, Some(("redis_slow", Warning))),
            (RedisVitals { version: "7.0".to_owned(), ..healthy() }, None),
            (RedisVitals { version: "10.1.2".to_owned(), ..healthy() }, None),
            (
                RedisVitals { version: "6.2.7".to_owned(), ..healthy() },
                Some(("redis_too_old", Warning)),
            ),
            (RedisVitals { loading: true, ..healthy() }, Some(("redis_loading", Critical))),
            (RedisVitals { replica: true, ..healthy() }, Some(("redis_replica", Critical))),
            (
                RedisVitals { unsafe_settings: evicts, ..healthy() },
                Some(("redis_evicts", Critical)),
            ),
            (
                RedisVitals { unsafe_settings: loses.clone(), ..healthy() },
                Some(("redis_loses", Critical)),
            ),
            (RedisVitals { memory_used: 750, ..healthy() }, Some(("redis_memory_low", Warning))),
            (RedisVitals { memory_used: 899, ..healthy() }, Some(("redis_memory_low", Warning))),
            (RedisVitals { memory_used: 900, ..healthy() }, Some(("redis_memory_low", Critical))),
            (RedisVitals { clients: 80, ..healthy() }, Some(("redis_connections_low", Warning))),
            (
                RedisVitals { append_ok: false, ..healthy() },
                Some(("redis_writes_failing", Critical)),
            ),
            (
                RedisVitals { snapshot_ok: false, ..healthy() },
                Some(("redis_writes_failing", Critical)),
            ),
            (
                RedisVitals { rewrite_ok: false, ..healthy() },
                Some(("redis_writes_failing", Warning)),
            ),
        ];
        for (vitals, wanted) in cases {
            assert_eq!(bad(&vitals, false), Vec::from_iter(wanted), "{vitals:?}");
        }
        let allowed = RedisVitals { unsafe_settings: loses, ..healthy() };
        assert_eq!(bad(&allowed, true), [("redis_loses", Warning)]);
    }

    #[test]
    fn a_missing_stream_is_not_told_as_a_missing_group_too() {
        let one = |partition, stream, group| Presence { partition, stream, group, length: 0 };
        let seen = |presence: &[Presence]| -> Vec<(&'static str, Severity)> {
            streams(presence).iter().map(|one| (one.code, one.severity)).collect()
        };
        let good = Severity::Good;
        let none = [one(0, true, true), one(1, true, true)];
        assert_eq!(seen(&none), [("stream_missing", good), ("group_missing", good)]);
        let stream = [one(0, false, false), one(1, true, true)];
        assert_eq!(seen(&stream), [("stream_missing", Critical), ("group_missing", good)]);
        let group = [one(0, true, false), one(1, true, true)];
        assert_eq!(seen(&group), [("stream_missing", good), ("group_missing", Critical)]);
        assert!(streams(&group)[1].sentence.contains("partition 0"));
    }
}
