//! Something an operator should know, in one shape: what, how bad, what to do,
//! and which heading of the RUNBOOK says more. Never decides how bad it is.

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

/// Something that can be found, and where the RUNBOOK tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Stable, for programs.
    pub code: &'static str,
    /// The worst that it can be.
    pub worst: Severity,
    /// The anchor of its heading in RUNBOOK.md.
    pub runbook: &'static str,
}

impl Kind {
    /// It is as it should be.
    pub(super) fn good(self, subject: &str, sentence: impl Into<String>) -> Finding {
        Finding {
            code: self.code,
            severity: Severity::Good,
            subject: subject.to_owned(),
            sentence: sentence.into(),
            advice: String::new(),
            runbook: "",
        }
    }

    /// It is not.
    pub(super) fn found(
        self,
        severity: Severity,
        subject: impl Into<String>,
        sentence: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            code: self.code,
            severity,
            subject: subject.into(),
            sentence: sentence.into(),
            advice: advice.into(),
            runbook: self.runbook,
        }
    }
}

/// Names each kind, and lists all of them.
macro_rules! kinds {
    ($($name:ident = $code:literal, $worst:ident, $runbook:literal;)*) => {
        $(pub(super) const $name: Kind =
            Kind { code: $code, worst: Severity::$worst, runbook: $runbook };)*
        /// Everything that can be found.
        pub const KINDS: &[Kind] = &[$($name),*];
    };
}

kinds! {
    SETTINGS = "settings_refused", Critical, "a-start-is-refused";
    CLOCKS = "clocks_apart", Warning, "clocks-are-apart";
    DISK = "disk_low", Critical, "a-disk-is-filling-up";

    REDIS_AWAY = "redis_unreachable", Critical, "redis-is-away";
    REDIS_ODD = "redis_unexpected", Critical, "a-server-answers-unexpectedly";
    REDIS_LOADING = "redis_loading", Critical, "redis-is-away";
    REDIS_SLOW = "redis_slow", Warning, "redis-or-postgresql-is-slow";
    REDIS_OLD = "redis_too_old", Warning, "a-server-is-too-old";
    REDIS_EVICTS = "redis_evicts", Critical, "redis-is-not-safe";
    REDIS_LOSES = "redis_loses", Critical, "redis-is-not-safe";
    REDIS_REPLICA = "redis_replica", Critical, "redis-takes-no-writes";
    REDIS_WRITES = "redis_writes_failing", Critical, "redis-takes-no-writes";
    REDIS_MEMORY = "redis_memory_low", Critical, "redis-is-full";
    REDIS_CLIENTS = "redis_connections_low", Warning, "connections-run-out";

    STREAMS = "stream_missing", Critical, "streams-or-groups-are-missing";
    GROUP_OURS = "group_missing", Critical, "streams-or-groups-are-missing";

    POSTGRESQL_AWAY = "postgresql_unreachable", Critical, "postgresql-is-away";
    POSTGRESQL_ODD = "postgresql_unexpected", Critical, "a-server-answers-unexpectedly";
    POSTGRESQL_SLOW = "postgresql_slow", Warning, "redis-or-postgresql-is-slow";
    POSTGRESQL_OLD = "postgresql_too_old", Warning, "a-server-is-too-old";
    POSTGRESQL_LOSES = "postgresql_loses", Critical, "postgresql-is-not-safe";
    POSTGRESQL_READS = "postgresql_read_only", Critical, "postgresql-takes-no-writes";
    POSTGRESQL_CLIENTS = "postgresql_connections_low", Critical, "connections-run-out";
    POSTGRESQL_LOCKS = "postgresql_lock_wait", Critical, "a-session-waits-for-a-lock";
    POSTGRESQL_OPEN = "postgresql_transaction_open", Warning, "a-transaction-stays-open";

    SCHEMA = "schema_mismatch", Critical, "the-schema-does-not-fit";
    TOPOLOGY = "topology_mismatch", Critical, "a-start-is-refused";
    PROVISIONED = "streams_not_created", Critical, "a-start-is-refused";
    RESIZE = "resize_under_way", Warning, "change-the-number-of-partitions";
    LEFT = "payments_left_behind", Critical, "change-the-number-of-partitions";
    OLD_STREAMS = "old_streams_left", Notice, "change-the-number-of-partitions";

    NO_WORKER = "no_worker", Critical, "no-worker-lives";
    OWNERS = "owners_unknown", Notice, "postgresql-is-away";
    UNOWNED = "partition_unowned", Critical, "a-partition-has-no-owner";
    SILENT = "owner_silent", Critical, "a-worker-is-silent";
    STUCK = "owner_stuck", Critical, "a-worker-makes-no-progress";
    UNEVEN = "owners_uneven", Warning, "workers-own-unequal-shares";
    RELEASE = "release_ignored", Warning, "a-partition-is-not-handed-over";

    GROUP_STRANGE = "group_unregistered", Warning, "streams-are-not-trimmed";
    GROUP_PARTLY = "group_incomplete", Warning, "streams-are-not-trimmed";
    GROUP_PINS = "group_pins_trimming", Warning, "streams-are-not-trimmed";

    BACKLOG = "backlog_deep", Critical, "payments-wait-and-are-not-applied";
    WAITING = "waiting_long", Critical, "payments-wait-and-are-not-applied";
    PENDING = "pending_old", Critical, "an-entry-is-stuck";
    POISON = "poison_on_trial", Warning, "an-entry-fails-again-and-again";
    ACCOUNT = "account_damaged", Critical, "an-account-is-damaged";
    DEAD = "dead_letters_open", Warning, "an-entry-became-a-dead-letter";
    SUSPENSE = "suspense_held", Warning, "a-payment-is-in-suspense";
    CONFLICTS = "conflicts_open", Warning, "a-payment-is-in-conflict";
    PARKED = "customers_parked", Warning, "payments-are-parked";
    LOSSES = "losses_open", Critical, "losses-are-open";
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
