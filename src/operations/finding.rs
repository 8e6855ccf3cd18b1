//! Something an operator should know, in one shape: what, how bad, what to do,
//! and which heading of the RUNBOOK says more; and the table of all that can be found.
//! Never decides how bad it is.

use serde::Serialize;
use utoipa::ToSchema;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing.
    Notice,
    /// Will hurt if nobody acts.
    Warning,
    /// Hurts now.
    Critical,
}

impl Severity {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// Stable, for programs: `partition_unowned`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `partition 7`, `redis`.
    pub subject: String,
    /// What is so.
    pub sentence: String,
    /// What to do about it; empty when it is as it should be.
    pub advice: String,
    /// The anchor of the heading of RUNBOOK.md that says more; empty when it is
    /// as it should be.
    pub runbook: &'static str,
}

/// A check of the doctor: how what it finds is named, and what is said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FindingKind {
    /// Stable, for programs.
    pub code: &'static str,
    /// The worst that it can be.
    pub worst: Severity,
    /// The anchor of its heading in RUNBOOK.md.
    pub runbook: &'static str,
    /// What it is about, unless it is about one of many.
    pub(super) subject: &'static str,
    /// What is said where all is well.
    pub(super) good: &'static str,
    /// What to do otherwise.
    pub(super) advice: &'static str,
}

impl FindingKind {
    /// It is as it should be.
    pub(super) fn good(self) -> Finding {
        self.judge(None)
    }

    /// It is not.
    pub(super) fn found(self, severity: Severity, sentence: impl Into<String>) -> Finding {
        self.judge(Some((severity, sentence.into())))
    }

    /// What was found, and how bad it is; nothing is as it should be.
    pub(super) fn judge(self, found: Option<(Severity, String)>) -> Finding {
        let Self { code, runbook, subject, good, advice, .. } = self;
        let is_good = found.is_none();
        let (severity, sentence) = found.unwrap_or((Severity::Good, good.to_owned()));
        Finding {
            code,
            severity,
            subject: subject.to_owned(),
            sentence,
            advice: if is_good { String::new() } else { advice.to_owned() },
            runbook: if is_good { "" } else { runbook },
        }
    }
}

impl Finding {
    /// About this one, of many.
    pub(super) fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }

    /// The figures, where all is well.
    pub(super) fn or(mut self, sentence: impl Into<String>) -> Self {
        if self.severity == Severity::Good {
            self.sentence = sentence.into();
        }
        self
    }

    /// What to do in this case.
    pub(super) fn advising(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }
}

/// Names each kind, and lists all of them.
macro_rules! kinds {
    ($($name:ident = $code:literal, $worst:ident, $runbook:literal, $subject:literal,
        $good:literal, $advice:literal;)*) => {
        $(pub(super) const $name: FindingKind = FindingKind {
            code: $code,
            worst: Severity::$worst,
            runbook: $runbook,
            subject: $subject,
            good: $good,
            advice: $advice,
        };)*
        /// Everything that can be found.
        pub const KINDS: &[FindingKind] = &[$($name),*];
    };
}

// Where the last is empty, what to do depends on what was found.
kinds! {
    SETTINGS = "settings_refused", Critical, "a-start-is-refused", "settings", "consistent",
        "no process starts with these settings: change what it names";
    CLOCKS = "clocks_apart", Warning, "clocks-are-apart", "", "its clock agrees with this machine's",
        "let NTP set both clocks; ownership does not depend on them, but ages, retention and \
         look-ups of what waits long do";
    DISK = "disk_low", Critical, "a-disk-is-filling-up", "",
        "its disk is not on this machine: not checked",
        "make room before it is full: Redis then refuses payments, and PostgreSQL stops";

    REDIS_AWAY = "redis_unreachable", Critical, "redis-is-away", "redis", "reachable",
        "bring Redis back with the data it had: nothing is accepted until then, nothing is lost, \
         and everything goes on by itself";
    REDIS_ODD = "redis_unexpected", Critical, "a-server-answers-unexpectedly", "redis", "",
        "see that the URL has the right user, password and database, and that this user may do \
         what it needs";
    REDIS_LOADING = "redis_loading", Critical, "redis-is-away", "redis", "",
        "wait: payments are refused until it is through, and everything goes on by itself";
    REDIS_SLOW = "redis_slow", Warning, "redis-or-postgresql-is-slow", "redis", "",
        "look at the load and the disk of its machine (`redis-cli --latency`, `redis-cli slowlog \
         get`), and at the network";
    REDIS_OLD = "redis_too_old", Warning, "a-server-is-too-old", "redis", "",
        "upgrade it; its data stays as it is";
    REDIS_EVICTS = "redis_evicts", Critical, "redis-is-not-safe", "redis", "evicts nothing",
        "`redis-cli config set maxmemory-policy noeviction`, and in redis.conf; no process starts \
         before";
    REDIS_LOSES = "redis_loses", Critical, "redis-is-not-safe", "redis",
        "syncs every write to disk",
        "`redis-cli config set appendonly yes`, `redis-cli config set appendfsync always`, and the \
         same in redis.conf";
    REDIS_REPLICA = "redis_replica", Critical, "redis-takes-no-writes", "redis", "is a primary",
        "set PAYSTREAM_REDIS_URL to the primary; make this one the primary only when the other is \
         gone for good, and then look at `paystream losses list`";
    REDIS_REPLICAS = "redis_replicas_few", Critical, "too-few-replicas", "redis", "",
        "bring its replicas back; or set PAYSTREAM_DURABILITY=disk and accept that payments are \
         lost with this server";
    REDIS_WRITES = "redis_writes_failing", Critical, "redis-takes-no-writes", "redis",
        "writes to its disk",
        "make room on its disk or mend it, and read Redis's log; the next write that succeeds ends \
         this";
    REDIS_MEMORY = "redis_memory_low", Critical, "redis-is-full", "redis", "",
        "see whether payments wait (below, and `paystream partitions`) or a group pins trimming \
         (`paystream groups list`); else give it more memory";
    REDIS_RATE = "redis_rate_high", Warning, "redis-is-full", "redis", "",
        "give Redis more memory, or shorten PAYSTREAM_DEDUPE_WINDOW: later repetitions are accepted \
         and have no effect";
    REDIS_CLIENTS = "redis_connections_low", Warning, "connections-run-out", "redis", "",
        "see who holds them with `redis-cli client list`, or raise maxclients";

    STREAMS = "stream_missing", Critical, "streams-or-groups-are-missing", "streams", "",
        "a running worker creates it again; then `paystream losses list` says what is gone";
    GROUP_OURS = "group_missing", Critical, "streams-or-groups-are-missing", "group ledger", "",
        "a running worker creates it again; then `paystream losses list` says what is gone";

    POSTGRESQL_AWAY = "postgresql_unreachable", Critical, "postgresql-is-away", "postgresql",
        "reachable",
        "bring PostgreSQL back: while Redis answers, payments are taken and wait in the streams; \
         everything goes on by itself";
    POSTGRESQL_ODD = "postgresql_unexpected", Critical, "a-server-answers-unexpectedly",
        "postgresql", "",
        "see that the URL has the right user, password and database, and that this user may do \
         what it needs";
    POSTGRESQL_RIGHTS = "postgresql_rights", Critical, "a-right-is-missing", "postgresql",
        "gives each role its rights",
        "`paystream migrate` as the owner of the tables: it gives each role its rights, and \
         everything goes on by itself";
    POSTGRESQL_SLOW = "postgresql_slow", Warning, "redis-or-postgresql-is-slow", "postgresql", "",
        "look at the load and the disk of its machine, and at the network";
    POSTGRESQL_OLD = "postgresql_too_old", Warning, "a-server-is-too-old", "postgresql", "",
        "upgrade it";
    POSTGRESQL_LOSES = "postgresql_loses", Critical, "postgresql-is-not-safe", "postgresql",
        "flushes commits to disk",
        "`alter system set … = on` for each, then `select pg_reload_conf()`";
    POSTGRESQL_POOLER = "postgresql_pooler", Critical, "a-pooler-is-before-postgresql", "postgresql",
        "settings of sessions and transactions hold",
        "set PAYSTREAM_DATABASE_POOLER=transaction for every process, or have them connect to \
         PostgreSQL itself";
    POSTGRESQL_READS = "postgresql_read_only", Critical, "postgresql-takes-no-writes",
        "postgresql", "takes writes",
        "point PAYSTREAM_DATABASE_URL to the primary, or set default_transaction_read_only to off; \
         payments wait in the streams meanwhile";
    POSTGRESQL_CLIENTS = "postgresql_connections_low", Critical, "connections-run-out",
        "postgresql", "",
        "see who holds them (`select application_name, count(*) from pg_stat_activity group by 1`); \
         lower PAYSTREAM_QUERY_CONNECTIONS or PAYSTREAM_LANES, or raise max_connections";
    POSTGRESQL_LOCKS = "postgresql_lock_wait", Critical, "a-session-waits-for-a-lock",
        "postgresql", "no session of paystream waits for a lock",
        "end the session that holds the lock if nobody needs it: `select pg_terminate_backend(…)` \
         with that process; a batch that is ended so is settled again";
    POSTGRESQL_STANDBY = "postgresql_standby_wait", Critical, "commits-wait-for-a-standby",
        "postgresql", "",
        "bring the standby back, or take it out of synchronous_standby_names (`alter system`, then \
         `select pg_reload_conf()`): nothing is settled until then, and nothing is lost";
    POSTGRESQL_OPEN = "postgresql_transaction_open", Warning, "a-transaction-stays-open",
        "postgresql", "no transaction stays open",
        "ask its owner, or end it: `select pg_terminate_backend(…)` with that process";

    SCHEMA = "schema_mismatch", Critical, "the-schema-does-not-fit", "postgresql",
        "has this release's schema",
        "`paystream migrate` of the release that is to run; a process whose schema does not fit \
         refuses to start";
    TOPOLOGY = "topology_mismatch", Critical, "a-start-is-refused", "topology", "",
        "no process starts so: set what it names";
    PROVISIONED = "streams_not_created", Critical, "a-start-is-refused", "topology", "",
        "`paystream migrate`";
    RESIZE = "resize_under_way", Warning, "change-the-number-of-partitions", "topology",
        "is not being changed", "";
    LEFT = "payments_left_behind", Critical, "change-the-number-of-partitions", "topology",
        "nothing waits in earlier streams",
        "`paystream topology resize` again with the number there is: it gives them to the current \
         streams";
    MONTHS = "payment_months_short", Warning, "months-of-payments-are-short", "months",
        "there is a month for the payments of the next 31 days",
        "`paystream migrate` as the owner of the tables makes them, or says what refuses it";
    OLD_STREAMS = "old_streams_left", Notice, "change-the-number-of-partitions", "topology", "",
        "when it has, run `paystream topology resize` again with the number there is";

    NO_WORKER = "no_worker", Critical, "no-worker-lives", "workers", "",
        "start one: `paystream serve worker`; it goes on where the last one stopped";
    OWNERS = "owners_unknown", Notice, "postgresql-is-away", "partitions", "",
        "see the findings about PostgreSQL; running workers wait for it and resume by themselves, so \
         start no others for this";
    UNOWNED = "partition_unowned", Critical, "a-partition-has-no-owner", "partitions",
        "each has an owner",
        "look in the workers' logs for `could not move partitions` or `redis does not answer`; a \
         worker that is started anew takes them";
    SILENT = "owner_silent", Critical, "a-worker-is-silent", "workers",
        "every owner sends heartbeats", "start a worker: it takes them over; nothing is lost";
    STUCK = "owner_stuck", Critical, "a-worker-makes-no-progress", "workers",
        "every worker with waiting entries makes progress",
        "`paystream pending` says why; then its log. `paystream release --partition N --reason \
         \"…\"` gives one to another lane or worker; a restart is safe";
    UNEVEN = "owners_uneven", Warning, "workers-own-unequal-shares", "workers", "",
        "look in the logs of those with few for `redis does not answer` or `could not move \
         partitions`, and see that all workers run one release";
    RELEASE = "release_ignored", Warning, "a-partition-is-not-handed-over", "partitions",
        "no handover request is overdue", "";

    GROUP_STRANGE = "group_unregistered", Warning, "streams-are-not-trimmed", "groups", "", "";
    GROUP_PARTLY = "group_incomplete", Warning, "streams-are-not-trimmed", "groups", "", "";
    GROUP_PINS = "group_pins_trimming", Warning, "streams-are-not-trimmed", "groups", "", "";

    BACKLOG = "backlog_deep", Critical, "payments-wait-and-are-not-applied", "streams", "",
        "`paystream partitions --watch`: if the lag falls, wait; if not, start more workers, or see \
         what the ones there wait for";
    WAITING = "waiting_long", Critical, "payments-wait-and-are-not-applied", "streams",
        "nothing has waited for longer than a minute",
        "`paystream partitions`: where the owner is not running, start a worker; where it is, its \
         log says what it waits for";
    PENDING = "pending_old", Critical, "an-entry-is-stuck", "streams",
        "nothing that was handed out is stuck",
        "`paystream pending` says of each why, and what is safe to do";
    POISON = "poison_on_trial", Warning, "an-entry-fails-again-and-again", "entries", "none fails",
        "";
    ACCOUNT = "account_damaged", Critical, "an-account-is-damaged", "accounts",
        "no dead letter is of a damaged account", "";
    DEAD = "dead_letters_open", Warning, "an-entry-became-a-dead-letter", "dead letters", "none",
        "`paystream dead-letters list`; when the cause is mended, `paystream dead-letters redrive ID \
         --reason \"…\"`";
    SUSPENSE = "suspense_held", Warning, "a-payment-is-in-suspense", "suspense", "none",
        "`paystream suspense list`; open the account, or `paystream suspense assign REFERENCE \
         --customer ID --reason \"…\"`";
    CONFLICTS = "conflicts_open", Warning, "a-payment-is-in-conflict", "conflicts", "none",
        "`paystream conflicts list`, ask the bank, `paystream conflicts resolve \
         PARTITION/SEQUENCE --reason \"…\"`";
    PARKED = "customers_parked", Warning, "payments-are-parked", "parked", "none",
        "deal with the dead letter, then `paystream parked release CUSTOMER --reason \"…\"`";
    LOSSES = "losses_open", Critical, "losses-are-open", "losses", "none",
        "`paystream losses list` names their sequences: ask the clients whose answers have them to \
         send those payments again; then `paystream losses accept --reason \"…\"`";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{KINDS, Severity};

    #[test]
    fn every_code_is_one_of_its_own_and_bad_in_some_way() {
        let codes: BTreeSet<&str> = KINDS.iter().map(|kind| kind.code).collect();
        assert_eq!(codes.len(), KINDS.len());
        assert!(KINDS.iter().all(|kind| kind.worst > Severity::Good));
    }

    #[test]
    fn the_worst_is_the_highest() {
        assert!(Severity::Critical > Severity::Warning);
        assert!(Severity::Warning > Severity::Notice && Severity::Notice > Severity::Good);
    }
}
