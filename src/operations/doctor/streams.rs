//! Judges how Redis is, and what waits in it. Pure: vitals and standings go in, findings come
//! out.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::words::{bytes, percent};
use crate::{
    operations::{
        Severity::{self, Critical, Good, Warning},
        finding::{self as kind, Finding, FindingKind},
        shapes::{numbered, span},
    },
    stream::{GROUP, GroupPosition, KEPT_MAX, Presence, RedisVitals, payments_held},
};

/// Slower than this is no network of one place, or an overloaded machine.
pub(super) const SLOW: Duration = Duration::from_millis(100);
/// Streams count the entries ever added from here on.
const OLDEST: u32 = 7;
/// Shares of memory, connections, and the backlog's limit, in percent.
const MEMORY_WARNING: u64 = 75;
const MEMORY_CRITICAL: u64 = 90;
const CLIENTS_WARNING: u64 = 80;
const BACKLOG_CRITICAL: i64 = 80;
/// Entries that may wait on all partitions together.
const WAITING_MAX: i64 = 10_000;
/// An entry that has waited for longer is a warning, and then critical.
const OLD: Duration = Duration::from_secs(60);
const VERY_OLD: Duration = Duration::from_secs(300);

/// Whether as many replicas follow as payments need; none where its disk is enough.
pub(super) fn replicas(there: u64, needed: u64) -> Finding {
    let few = format!("{there} replicas are in step, and each payment needs {needed}");
    let finding = kind::REDIS_REPLICAS.judge((there < needed).then_some((Critical, few)));
    finding.or(match needed {
        0 => format!("a 202 is on its disk; {there} replicas are in step"),
        _ => format!("a 202 is on its disk and with {needed} of {there} replicas"),
    })
}

/// Everything about the server itself. `unsafe_allowed`: whether the settings
/// allow a Redis that loses.
pub(super) fn server(vitals: &RedisVitals, unsafe_allowed: bool) -> Vec<Finding> {
    if vitals.number("loading") == 1 {
        let sentence = "Redis reads its data back and answers nothing else meanwhile";
        return vec![kind::REDIS_LOADING.found(Critical, sentence)];
    }
    let RedisVitals { latency: took, unsafe_settings, .. } = vitals;
    let slow = format!("Redis takes {took:.1?} for a question and its answer");
    let version = vitals.text("redis_version");
    let major: u32 = version.split('.').next().and_then(|it| it.parse().ok()).unwrap_or(0);
    let old = format!("Redis is {version}; below {OLDEST}.0 it does not tell how much waits");
    let replica = "this Redis is a replica of another one and takes no payments";
    let is_replica = !matches!(vitals.text("role"), "master" | "");
    let (clients, most) = (vitals.number("connected_clients"), vitals.number("maxclients"));
    let in_use = format!("{clients} of {most} connections are in use");
    let rejected = vitals.number("rejected_connections");
    let refused = format!("{in_use}; {rejected} were refused since it started");
    let is_full = percent(clients, most) >= CLIENTS_WARNING;
    vec![
        kind::REDIS_SLOW
            .judge((*took > SLOW).then_some((Warning, slow)))
            .or(format!("answers in {took:.1?}")),
        kind::REDIS_OLD
            .judge((major < OLDEST).then_some((Warning, old)))
            .or(format!("is version {version}")),
        kind::REDIS_EVICTS.judge(unsafe_settings.evicts.clone().map(|why| (Critical, why))),
        kind::REDIS_LOSES.judge(unsafe_settings.loses.as_ref().map(|why| match unsafe_allowed {
            true => (Warning, format!("{why} (PAYSTREAM_ALLOW_UNSAFE_REDIS accepts that)")),
            false => (Critical, why.clone()),
        })),
        kind::REDIS_REPLICA.judge(is_replica.then(|| (Critical, replica.to_owned()))),
        kind::REDIS_WRITES.judge(failed_write(vitals)),
        memory(vitals),
        kind::REDIS_CLIENTS.judge(is_full.then_some((Warning, refused))).or(in_use),
    ]
}

fn failed_write(vitals: &RedisVitals) -> Option<(Severity, String)> {
    let writes = [
        ("aof_last_write_status", Critical, "its last write to the append-only file"),
        ("rdb_last_bgsave_status", Critical, "its last snapshot, after which it refuses writes"),
        ("aof_last_bgrewrite_status", Warning, "its last try to write the append-only file anew"),
    ];
    let failed = |name: &str| !matches!(vitals.text(name), "ok" | "");
    let (_, severity, what) = writes.into_iter().find(|(name, ..)| failed(name))?;
    Some((severity, format!("Redis could not write to its disk: {what} failed")))
}

fn memory(vitals: &RedisVitals) -> Finding {
    let (most, of) = match vitals.number("maxmemory") {
        0 => (vitals.number("total_system_memory"), "the machine's memory"),
        limit => (limit, "its maxmemory"),
    };
    let used = vitals.number("used_memory");
    let share = percent(used, most);
    let sentence = format!("uses {share} % of {of}: {} of {}", bytes(used), bytes(most));
    let severity = match share {
        MEMORY_CRITICAL.. => Some(Critical),
        MEMORY_WARNING.. => Some(Warning),
        _ => None,
    };
    let found = severity.map(|severity| (severity, format!("Redis {sentence}")));
    kind::REDIS_MEMORY.judge(found).or(sentence)
}

/// Whether the memory of Redis suffices for the references of as many payments as come.
/// `memory`: what all of its servers may use, where that is limited.
pub(super) fn rate(memory: u64, window: Duration, a_second: u64) -> Finding {
    let held = payments_held(memory, window);
    let window = span(window);
    if memory == 0 {
        let sentence = format!("{a_second} payments a second come; its memory has no limit");
        return kind::REDIS_RATE.good().or(sentence);
    }
    let sentence = format!(
        "its memory suffices for {held} payments a second (PAYSTREAM_DEDUPE_WINDOW {window}), and \
         {a_second} come"
    );
    let many = format!(
        "{a_second} payments a second come, and Redis has memory for {held}: at this rate it is \
         full within the dedupe window ({window})"
    );
    kind::REDIS_RATE.judge((a_second > held).then_some((Warning, many))).or(sentence)
}

/// Whether every partition has its stream and our group.
pub(super) fn missing(presence: &[Presence]) -> [Finding; 2] {
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

/// What waits in the streams for our group.
pub(super) fn waiting(
    standings: &[GroupPosition],
    presence: &[Presence],
    backlog_max: Option<u32>,
    now: DateTime<Utc>,
) -> Vec<Finding> {
    let ours: Vec<&GroupPosition> = standings.iter().filter(|one| one.group == GROUP).collect();
    let lagging = late(
        kind::WAITING,
        &ours,
        |one| one.pending == 0,
        now,
        |age, partitions| format!("payments have waited for {age} on {partitions}"),
    );
    let pending = late(
        kind::PENDING,
        &ours,
        |one| one.pending > 0,
        now,
        |age, partitions| {
            format!(
                "entries on {partitions} were handed to a worker and are not settled, the oldest for \
             {age}"
            )
        },
    );
    vec![backlog(&ours, presence, backlog_max), lagging, pending]
}

/// The same finding while the ledger cannot be read: nothing is settled then, and
/// more workers would not help.
pub(super) fn without_ledger(finding: Finding) -> Finding {
    if finding.severity == Good {
        return finding;
    }
    finding.advising(
        "nothing is settled while the ledger cannot be read: see what is said of PostgreSQL; \
         workers go on by themselves",
    )
}

/// Partitions in which an entry has waited for long.
pub(super) fn waiting_long(standings: &[GroupPosition], now: DateTime<Utc>) -> Vec<u16> {
    let ours = standings.iter().filter(|one| one.group == GROUP);
    ours.filter(|one| age(one, now) > OLD).map(|one| one.partition).collect()
}

fn age(standing: &GroupPosition, now: DateTime<Utc>) -> Duration {
    Duration::from_secs(standing.oldest_waiting.map_or(0, |id| id.age_seconds(now)))
}

fn backlog(ours: &[&GroupPosition], presence: &[Presence], backlog_max: Option<u32>) -> Finding {
    let max = backlog_max.map_or(i64::MAX / 100, i64::from);
    let nearly = |count: i64, max: i64| count >= max.saturating_mul(BACKLOG_CRITICAL) / 100;
    let full = |partition: u16, sentence: String, advice: &str| {
        let finding = kind::BACKLOG.found(Critical, sentence).advising(advice);
        finding.about(format!("partition {partition}"))
    };
    let unsettled = ours.iter().map(|one| (one.partition, one.lag + one.pending));
    if let Some((partition, count)) = unsettled.clone().max_by_key(|(_, count)| *count)
        && nearly(count, max)
    {
        let sentence = format!(
            "partition {partition} has {count} entries that are not settled; at {max} \
             (PAYSTREAM_BACKLOG_MAX) payments for it are refused"
        );
        return full(partition, sentence, "see what the payments wait for (below)");
    }
    let kept_max = max.saturating_mul(KEPT_MAX);
    if let Some(Presence { partition, length, .. }) = presence.iter().max_by_key(|one| one.length)
        && nearly(*length, kept_max)
    {
        let sentence = format!(
            "the stream of partition {partition} holds {length} entries, settled ones included; at \
             {kept_max} ({KEPT_MAX} times PAYSTREAM_BACKLOG_MAX) payments for it are refused"
        );
        let advice = "see why settled entries are kept: a group that pins trimming (`paystream \
                      groups list`) or a long PAYSTREAM_RETENTION";
        return full(*partition, sentence, advice);
    }
    let waits: i64 = unsettled.map(|(_, count)| count).sum();
    let sentence = format!("{waits} entries wait");
    let many = format!("{sentence}, more than {WAITING_MAX}");
    kind::BACKLOG.judge((waits > WAITING_MAX).then_some((Warning, many))).or(sentence)
}

fn late(
    kind: FindingKind,
    ours: &[&GroupPosition],
    is_meant: fn(&GroupPosition) -> bool,
    now: DateTime<Utc>,
    sentence: impl Fn(String, &str) -> String,
) -> Finding {
    let late = ours.iter().filter(|one| is_meant(one) && age(one, now) > OLD);
    let Some(oldest) = late.clone().map(|one| age(one, now)).max() else { return kind.good() };
    let named = numbered(&late.map(|one| one.partition).collect::<Vec<u16>>());
    let severity = if oldest > VERY_OLD { Critical } else { Warning };
    kind.found(severity, sentence(span(oldest), &named)).about(named)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::{domain::StreamId, operations::Severity::Good, stream::Unsafe};

    /// A healthy Redis, but for these fields of its `INFO`.
    fn vitals(but: &[(&str, &str)]) -> RedisVitals {
        let healthy = [
            ("redis_version", "7.0.15"),
            ("role", "master"),
            ("used_memory", "749"),
            ("maxmemory", "1000"),
            ("aof_last_write_status", "ok"),
            ("connected_clients", "79"),
            ("maxclients", "100"),
        ];
        let fields = healthy.iter().chain(but);
        RedisVitals {
            latency: SLOW,
            now: DateTime::UNIX_EPOCH,
            info: fields.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            unsafe_settings: Unsafe::default(),
            directory: None,
        }
    }

    fn bad(findings: impl IntoIterator<Item = Finding>) -> Vec<(&'static str, Severity)> {
        let bad = findings.into_iter().filter(|one| one.severity > Good);
        bad.map(|one| (one.code, one.severity)).collect()
    }

    #[test]
    fn each_finding_about_the_server_has_two_sides() {
        let cases = [
            (("redis_version", "7.0"), None),
            (("redis_version", "10.1.2"), None),
            (("redis_version", "6.2.7"), Some(("redis_too_old", Warning))),
            (("loading", "1"), Some(("redis_loading", Critical))),
            (("role", "slave"), Some(("redis_replica", Critical))),
            (("used_memory", "750"), Some(("redis_memory_low", Warning))),
            (("used_memory", "899"), Some(("redis_memory_low", Warning))),
            (("used_memory", "900"), Some(("redis_memory_low", Critical))),
            (("connected_clients", "80"), Some(("redis_connections_low", Warning))),
            (("aof_last_write_status", "err"), Some(("redis_writes_failing", Critical))),
            (("rdb_last_bgsave_status", "err"), Some(("redis_writes_failing", Critical))),
            (("aof_last_bgrewrite_status", "err"), Some(("redis_writes_failing", Warning))),
        ];
        assert_eq!(bad(server(&vitals(&[]), false)), []);
        for (field, wanted) in cases {
            assert_eq!(bad(server(&vitals(&[field]), false)), Vec::from_iter(wanted), "{field:?}");
        }
        assert_eq!(bad([replicas(0, 0), replicas(2, 2)]), []);
        assert_eq!(bad([replicas(1, 2)]), [("redis_replicas_few", Critical)]);
        let slow = RedisVitals { latency: SLOW + Duration::from_nanos(1), ..vitals(&[]) };
        assert_eq!(bad(server(&slow, false)), [("redis_slow", Warning)]);
        let why = || Some("why".to_owned());
        let (loses, evicts) = (
            Unsafe { loses: why(), ..Unsafe::default() },
            Unsafe { evicts: why(), ..Unsafe::default() },
        );
        let evicts = RedisVitals { unsafe_settings: evicts, ..vitals(&[]) };
        assert_eq!(bad(server(&evicts, false)), [("redis_evicts", Critical)]);
        let loses = RedisVitals { unsafe_settings: loses, ..vitals(&[]) };
        assert_eq!(bad(server(&loses, false)), [("redis_loses", Critical)]);
        assert_eq!(bad(server(&loses, true)), [("redis_loses", Warning)]);
    }

    #[test]
    fn more_payments_than_the_memory_suffices_for_are_told() {
        let (memory, window) = (2 << 30, Duration::from_secs(900));
        assert_eq!(bad([rate(memory, window, 27_962), rate(0, window, u64::MAX)]), []);
        assert_eq!(bad([rate(memory, window, 27_963)]), [("redis_rate_high", Warning)]);
        let told = rate(memory, window, 5).sentence;
        assert!(told.contains("27962 payments a second"), "{told}");
    }

    #[test]
    fn a_missing_stream_is_not_told_as_a_missing_group_too() {
        let one = |partition, stream, group| Presence { partition, stream, group, length: 0 };
        let whole = one(1, true, true);
        assert_eq!(bad(missing(&[one(0, true, true), whole])), []);
        assert_eq!(bad(missing(&[one(0, false, false), whole])), [("stream_missing", Critical)]);
        let group = missing(&[one(0, true, false), whole]);
        assert!(group[1].sentence.contains("partition 0"));
        assert_eq!(bad(group), [("group_missing", Critical)]);
    }

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(2)
    }

    fn standing(partition: u16, age_seconds: i64, lag: i64, pending: i64) -> GroupPosition {
        let at = (now() - TimeDelta::seconds(age_seconds)).timestamp_millis();
        let id = StreamId { milliseconds: u64::try_from(at).unwrap(), number: 0 };
        GroupPosition {
            partition,
            group: GROUP.to_owned(),
            lag,
            pending,
            oldest_waiting: (lag + pending > 0).then_some(id),
            floor: id,
            last_id: id,
        }
    }

    #[test]
    fn each_finding_about_what_waits_has_two_sides() {
        let stream = [Presence { partition: 3, stream: true, group: true, length: 6_399 }];
        let fuller = [Presence { length: 6_400, ..stream[0] }];
        let cases = [
            (standing(0, 1, 9_000, 1_000), &stream[..0], None, None),
            (standing(0, 1, 9_000, 1_001), &stream[..0], None, Some(("backlog_deep", Warning))),
            (standing(3, 1, 799, 0), &stream, Some(1_000), None),
            (standing(3, 1, 800, 0), &stream, Some(1_000), Some(("backlog_deep", Critical))),
            // Settled entries are kept, too; but nobody knows the limit.
            (standing(3, 1, 0, 0), &fuller, Some(1_000), Some(("backlog_deep", Critical))),
            (standing(3, 1, 5_000, 0), &fuller, None, None),
            (standing(0, 60, 1, 0), &[], None, None),
            (standing(0, 61, 1, 0), &[], None, Some(("waiting_long", Warning))),
            (standing(0, 300, 1, 0), &[], None, Some(("waiting_long", Warning))),
            (standing(0, 301, 1, 0), &[], None, Some(("waiting_long", Critical))),
            (standing(0, 61, 1, 1), &[], None, Some(("pending_old", Warning))),
            (standing(0, 301, 1, 1), &[], None, Some(("pending_old", Critical))),
        ];
        for (standing, presence, max, wanted) in cases {
            let found = bad(waiting(std::slice::from_ref(&standing), presence, max, now()));
            assert_eq!(found, Vec::from_iter(wanted), "{standing:?}");
        }
        let late = [standing(0, 61, 1, 0), standing(1, 60, 1, 0), standing(2, 61, 0, 1)];
        assert_eq!(waiting_long(&late, now()), [0, 2]);
    }

    #[test]
    fn without_the_ledger_no_advice_starts_workers() {
        let late = [standing(0, 301, 1, 0), standing(1, 301, 20_000, 1)];
        for finding in waiting(&late, &[], None, now()).into_iter().map(without_ledger) {
            assert!(finding.severity > Good, "{finding:?}");
            assert!(!finding.advice.contains("start"), "{finding:?}");
            assert!(finding.advice.contains("PostgreSQL"), "{finding:?}");
        }
    }
}
