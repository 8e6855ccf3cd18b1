//! Judges how PostgreSQL is, whatever lies in it. Pure: vitals go in, findings
//! come out.

use std::time::Duration;

use super::words::{above, bytes, percent};
use crate::{
    ledger::{LockHolder, Vitals},
    operations::{
        Severity::{self, Critical, Warning},
        finding::{self as kind, Finding},
        shapes::span,
    },
};

/// Slower than this is no network of one place, or an overloaded machine.
const SLOW: Duration = Duration::from_millis(100);
/// The oldest version that is tried.
const OLDEST: i32 = 140_000;
/// Shares of connections, in percent.
const CLIENTS_WARNING: u64 = 80;
const CLIENTS_CRITICAL: u64 = 95;
/// A session of ours that waits for a lock for so long does not just take its
/// turn, in milliseconds,
const BLOCKED_WARNING: i64 = 2_000;
/// and for so long it is past the deadline of its batch.
const BLOCKED_CRITICAL: i64 = 10_000;
/// An open transaction of this age keeps what is deleted from being cleaned up,
/// in milliseconds.
const OPEN_WARNING: i64 = 300_000;

/// Everything about the server and its sessions.
pub(super) fn judge(vitals: &Vitals) -> Vec<Finding> {
    let Vitals { latency: took, version, connections, connections_max, .. } = vitals;
    let slow = format!("PostgreSQL takes {took:.1?} for the simplest question");
    let old = format!("PostgreSQL is {version}; nothing below {} is tried", OLDEST / 10_000);
    let size = bytes(u64::try_from(vitals.size).unwrap_or(0));
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    let share = percent(number(*connections), number(*connections_max));
    let in_use = format!("{connections} of {connections_max} connections are in use");
    let few = above(share, CLIENTS_WARNING, CLIENTS_CRITICAL);
    vec![
        kind::POSTGRESQL_SLOW
            .judge((*took > SLOW).then_some((Warning, slow)))
            .or(format!("answers in {took:.1?}")),
        kind::POSTGRESQL_OLD
            .judge((vitals.version_number < OLDEST).then_some((Warning, old)))
            .or(format!("is version {version}, the database has {size}")),
        kind::POSTGRESQL_LOSES.judge(loses(vitals)),
        kind::POSTGRESQL_READS.judge(refuses_writes(vitals)),
        kind::POSTGRESQL_CLIENTS.judge(few.map(|severity| (severity, in_use.clone()))).or(in_use),
        locks(vitals),
        kind::POSTGRESQL_OPEN.judge(open(vitals)),
    ]
}

fn loses(vitals: &Vitals) -> Option<(Severity, String)> {
    let settings = [
        (vitals.fsync, "fsync is off"),
        (vitals.full_page_writes, "full_page_writes is off"),
        (vitals.synchronous_commit != "off", "synchronous_commit is off"),
    ];
    let wrong: Vec<&str> = settings.iter().filter(|(ok, _)| !ok).map(|(_, text)| *text).collect();
    let sentence = format!(
        "{}: a crash of its machine can lose payments that were settled and acknowledged",
        wrong.join(" and ")
    );
    (!wrong.is_empty()).then_some((Critical, sentence))
}

fn refuses_writes(vitals: &Vitals) -> Option<(Severity, String)> {
    let why = match (vitals.recovering, vitals.read_only) {
        (false, false) => return None,
        (true, _) => "it is a standby, which copies another PostgreSQL",
        (false, true) => "default_transaction_read_only is on",
    };
    Some((Critical, format!("this PostgreSQL takes no writes: {why}")))
}

fn locks(vitals: &Vitals) -> Finding {
    let old = |one: &&LockHolder| one.open_ms.is_none_or(|age| age >= BLOCKED_WARNING);
    if let Some(holder) = vitals.holders.iter().find(old) {
        return held(holder, vitals.blocked.len());
    }
    let waits: Vec<_> =
        vitals.blocked.iter().filter(|one| one.waited_ms >= BLOCKED_WARNING).collect();
    let Some(first) = waits.first() else { return kind::POSTGRESQL_LOCKS.good() };
    let who = match first.blockers.as_slice() {
        [] => "somebody who has just let go".to_owned(),
        blockers => blockers.join(", "),
    };
    let sentence = format!(
        "{} sessions of paystream wait for a lock; {} (process {}) has waited for {}; held by {who}",
        waits.len(),
        first.application,
        first.pid,
        span(duration(first.waited_ms)),
    );
    kind::POSTGRESQL_LOCKS.found(blocked(first.waited_ms), sentence)
}

/// A foreign session has locked something that a batch may need.
fn held(holder: &LockHolder, waiting: usize) -> Finding {
    let LockHolder { pid, application, state, open_ms, has_table, .. } = holder;
    let age = open_ms.unwrap_or(0);
    let (what, then) = match has_table {
        true => ("a table of the ledger", "no payment is settled meanwhile"),
        false => ("rows of the ledger", "payments of these accounts and their partitions wait"),
    };
    let sentence = format!(
        "process {pid} ({application}, {state}) has locked {what} in a transaction that has been \
         open for {}: {then}; paystream sessions waiting for a lock: {waiting}",
        span(duration(age)),
    );
    kind::POSTGRESQL_LOCKS.found(blocked(age), sentence).advising(format!(
        "`paystream pending` names the payments that wait; if the session is nobody's work, end it: \
         `select pg_terminate_backend({pid})`; what waits is settled then"
    ))
}

fn blocked(milliseconds: i64) -> Severity {
    if milliseconds >= BLOCKED_CRITICAL { Critical } else { Warning }
}

fn open(vitals: &Vitals) -> Option<(Severity, String)> {
    let oldest = vitals.transactions.iter().find(|one| one.open_ms >= OPEN_WARNING)?;
    let name = match oldest.application.as_str() {
        "" => "an unnamed session",
        name => name,
    };
    let sentence = format!(
        "{name} (process {}, {}) has had a transaction open for {}: nothing that was deleted since \
         can be cleaned up",
        oldest.pid,
        oldest.state,
        span(duration(oldest.open_ms)),
    );
    Some((Warning, sentence))
}

fn duration(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::ledger::{BlockedSession, OpenTransaction};

    fn healthy() -> Vitals {
        Vitals {
            latency: SLOW,
            now: DateTime::UNIX_EPOCH,
            version: "15.4".to_owned(),
            version_number: 150_004,
            recovering: false,
            read_only: false,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".to_owned(),
            connections: 79,
            connections_max: 100,
            size: 1,
            directory: None,
            blocked: vec![blocked(1_999)],
            holders: vec![holder(1_999)],
            transactions: vec![transaction(299_999)],
        }
    }

    fn blocked(waited_ms: i64) -> BlockedSession {
        let blockers = vec!["7 (psql, idle in transaction)".to_owned()];
        BlockedSession { pid: 1, application: "paystream a".to_owned(), waited_ms, blockers }
    }

    fn holder(open_ms: i64) -> LockHolder {
        LockHolder {
            pid: 7,
            application: "psql".to_owned(),
            state: "idle in transaction".to_owned(),
            open_ms: Some(open_ms),
            has_table: false,
            accounts: Vec::new(),
            partitions: Vec::new(),
        }
    }

    fn transaction(open_ms: i64) -> OpenTransaction {
        let state = "idle in transaction".to_owned();
        OpenTransaction { pid: 2, application: String::new(), state, open_ms }
    }

    fn bad(vitals: &Vitals) -> Vec<(&'static str, Severity)> {
        let findings = judge(vitals).into_iter().filter(|one| one.severity > Severity::Good);
        findings.map(|one| (one.code, one.severity)).collect()
    }

    #[test]
    fn each_finding_has_two_sides() {
        let cases = [
            (healthy(), None),
            (
                Vitals { latency: SLOW + Duration::from_nanos(1), ..healthy() },
                Some(("postgresql_slow", Warning)),
            ),
            (Vitals { version_number: 140_000, ..healthy() }, None),
            (
                Vitals { version_number: 139_999, ..healthy() },
                Some(("postgresql_too_old", Warning)),
            ),
            (Vitals { fsync: false, ..healthy() }, Some(("postgresql_loses", Critical))),
            (Vitals { full_page_writes: false, ..healthy() }, Some(("postgresql_loses", Critical))),
            (Vitals { synchronous_commit: "local".to_owned(), ..healthy() }, None),
            (
                Vitals { synchronous_commit: "off".to_owned(), ..healthy() },
                Some(("postgresql_loses", Critical)),
            ),
            (Vitals { recovering: true, ..healthy() }, Some(("postgresql_read_only", Critical))),
            (Vitals { read_only: true, ..healthy() }, Some(("postgresql_read_only", Critical))),
            (
                Vitals { connections: 80, ..healthy() },
                Some(("postgresql_connections_low", Warning)),
            ),
            (
                Vitals { connections: 95, ..healthy() },
                Some(("postgresql_connections_low", Critical)),
            ),
            (
                Vitals { blocked: vec![blocked(2_000)], ..healthy() },
                Some(("postgresql_lock_wait", Warning)),
            ),
            (
                Vitals { blocked: vec![blocked(10_000)], ..healthy() },
                Some(("postgresql_lock_wait", Critical)),
            ),
            (
                Vitals { holders: vec![holder(2_000)], ..healthy() },
                Some(("postgresql_lock_wait", Warning)),
            ),
            (
                Vitals { holders: vec![holder(10_000)], ..healthy() },
                Some(("postgresql_lock_wait", Critical)),
            ),
            (
                Vitals { transactions: vec![transaction(300_000)], ..healthy() },
                Some(("postgresql_transaction_open", Warning)),
            ),
        ];
        for (vitals, wanted) in cases {
            assert_eq!(bad(&vitals), Vec::from_iter(wanted), "{vitals:?}");
        }
    }

    #[test]
    fn who_holds_a_lock_is_named() {
        let vitals = Vitals { blocked: vec![blocked(5_000)], ..healthy() };
        assert!(locks(&vitals).sentence.contains("held by 7 (psql, idle in transaction)"));
    }
}
