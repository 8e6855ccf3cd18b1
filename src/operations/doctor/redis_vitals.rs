//! Judges how Redis is. Pure: vitals go in, findings come out.

use std::time::Duration;

use crate::{
    operations::{
        Severity::{Critical, Warning},
        finding::{self as kind, Finding},
    },
    stream::{Presence, RedisVitals},
};

use super::words::{bytes, numbered, percent};

const SUBJECT: &str = "redis";
/// Slower than this is no network of one place, or an overloaded machine.
pub(super) const SLOW: Duration = Duration::from_millis(100);
/// Streams count the entries ever added from here on.
const OLDEST: (u32, u32) = (7, 0);
/// Shares of memory and connections, in percent.
const MEMORY_WARNING: u64 = 75;
const MEMORY_CRITICAL: u64 = 90;
const CLIENTS_WARNING: u64 = 80;

/// Everything about the server itself. `unsafe_allowed`: whether the settings
/// allow a Redis that loses.
pub(super) fn judge(vitals: &RedisVitals, unsafe_allowed: bool) -> Vec<Finding> {
    if vitals.loading {
        return vec![kind::REDIS_LOADING.found(
            Critical,
            SUBJECT,
            "Redis reads its data back and answers nothing else meanwhile",
            "wait: payments are refused until it is through, and everything goes on by itself",
        )];
    }
    vec![
        latency(vitals),
        version(vitals),
        evicts(vitals),
        loses(vitals, unsafe_allowed),
        replica(vitals),
        writes(vitals),
        memory(vitals),
        clients(vitals),
    ]
}

fn latency(vitals: &RedisVitals) -> Finding {
    let took = vitals.latency;
    if took <= SLOW {
        return kind::REDIS_SLOW.good(SUBJECT, format!("answers in {took:.1?}"));
    }
    kind::REDIS_SLOW.found(
        Warning,
        SUBJECT,
        format!("Redis takes {took:.1?} for a question and its answer"),
        "look at the load and the disk of its machine (`redis-cli --latency`, `redis-cli slowlog \
         get`), and at the way there",
    )
}

fn version(vitals: &RedisVitals) -> Finding {
    let version = &vitals.version;
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if number >= OLDEST {
        return kind::REDIS_OLD.good(SUBJECT, format!("is version {version}"));
    }
    let (major, minor) = OLDEST;
    kind::REDIS_OLD.found(
        Warning,
        SUBJECT,
        format!("Redis is {version}; below {major}.{minor} it does not tell how much waits"),
        "upgrade it; its data stays as it is",
    )
}

fn evicts(vitals: &RedisVitals) -> Finding {
    match &vitals.unsafe_settings.evicts {
        None => kind::REDIS_EVICTS.good(SUBJECT, "evicts nothing"),
        Some(why) => kind::REDIS_EVICTS.found(
            Critical,
            SUBJECT,
            why.clone(),
            "`redis-cli config set maxmemory-policy noeviction`, and in redis.conf; no process \
             starts before",
        ),
    }
}

fn loses(vitals: &RedisVitals, allowed: bool) -> Finding {
    match &vitals.unsafe_settings.loses {
        None => kind::REDIS_LOSES.good(SUBJECT, "syncs every write to disk"),
        Some(why) => kind::REDIS_LOSES.found(
            if allowed { Warning } else { Critical },
            SUBJECT,
            if allowed {
                format!("{why} (PAYSTREAM_ALLOW_UNSAFE_REDIS accepts that)")
            } else {
                why.clone()
            },
            "`redis-cli config set appendonly yes`, `redis-cli config set appendfsync always`, and \
             the same in redis.conf",
        ),
    }
}

fn replica(vitals: &RedisVitals) -> Finding {
    if !vitals.replica {
        return kind::REDIS_REPLICA.good(SUBJECT, "is a primary");
    }
    kind::REDIS_REPLICA.found(
        Critical,
        SUBJECT,
        "this Redis is a replica of another one and takes no payments",
        "set PAYSTREAM_REDIS_URL to the primary; make this one the primary only when the other is \
         gone for good, and then look at `paystream losses list`",
    )
}

fn writes(vitals: &RedisVitals) -> Finding {
    let failed = [
        (vitals.append_ok, Critical, "its last write to the append-only file"),
        (vitals.snapshot_ok, Critical, "its last snapshot, after which it refuses writes"),
        (vitals.rewrite_ok, Warning, "its last try to write the append-only file anew"),
    ];
    match failed.into_iter().find(|(ok, _, _)| !ok) {
        None => kind::REDIS_WRITES.good(SUBJECT, "writes to its disk"),
        Some((_, severity, what)) => kind::REDIS_WRITES.found(
            severity,
            SUBJECT,
            format!("Redis could not write to its disk: {what} failed"),
            "make room on its disk or mend it, and read Redis's log; the next write that succeeds \
             ends this",
        ),
    }
}

fn memory(vitals: &RedisVitals) -> Finding {
    let (used, most) = (vitals.memory_used, vitals.memory_max);
    let share = percent(used, most);
    let of = if vitals.memory_limited { "its maxmemory" } else { "the machine's memory" };
    let sentence = format!("uses {share} % of {of}: {} of {}", bytes(used), bytes(most));
    let severity = match share {
        ..MEMORY_WARNING => return kind::REDIS_MEMORY.good(SUBJECT, sentence),
        MEMORY_WARNING..MEMORY_CRITICAL => Warning,
        _ => Critical,
    };
    kind::REDIS_MEMORY.found(
        severity,
        SUBJECT,
        format!("Redis {sentence}"),
        "see whether payments wait (below, and `paystream partitions`) or a group pins trimming \
         (`paystream groups list`); else give it more memory",
    )
}

fn clients(vitals: &RedisVitals) -> Finding {
    let share = percent(vitals.clients, vitals.clients_max);
    let sentence = format!("{} of {} connections are in use", vitals.clients, vitals.clients_max);
    if share < CLIENTS_WARNING {
        return kind::REDIS_CLIENTS.good(SUBJECT, sentence);
    }
    kind::REDIS_CLIENTS.found(
        Warning,
        SUBJECT,
        format!("{sentence}; {} were refused since it started", vitals.rejected),
        "find out whose they are with `redis-cli client list`, or raise maxclients",
    )
}

/// Whether every partition has its stream and our group.
pub(super) fn streams(presence: &[Presence]) -> Vec<Finding> {
    let without = |has: fn(&Presence) -> bool| -> Vec<u16> {
        presence.iter().filter(|one| !has(one)).map(|one| one.partition).collect()
    };
    let advice = "a worker that lives brings it back by itself; then `paystream losses list` says \
                  what is gone";
    let streams = without(|one| one.stream);
    let groups = without(|one| one.group || !one.stream);
    let all = format!("all {} partitions have one", presence.len());
    vec![
        if streams.is_empty() {
            kind::STREAMS.good("streams", all.clone())
        } else {
            let sentence = format!("the stream of {} is missing in Redis", numbered(&streams));
            kind::STREAMS.found(Critical, "streams", sentence, advice)
        },
        if groups.is_empty() {
            kind::GROUP_OURS.good("group ledger", all)
        } else {
            let sentence = format!("our group is missing on {}", numbered(&groups));
            kind::GROUP_OURS.found(Critical, "group ledger", sentence, advice)
        },
    ]
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::{operations::Severity, stream::Unsafe};

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
