//! The registry of other consumer groups on our streams, with its changes in the audit log.
//! Never knows whether a group exists in Redis.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow};

use super::{
    Error, QUERY_TIMEOUT,
    cursors::{CURSORS, PartitionCursor},
    in_time,
    pool::Pool,
};
use crate::domain::StreamId;

#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct GroupRow {
    pub name: String,
    /// `start` or `now`.
    pub starts_from: String,
    /// Owner and purpose.
    pub note: String,
    pub registered_at: DateTime<Utc>,
}

#[derive(Clone)]
pub struct Groups {
    pub(super) pool: Pool,
}

#[derive(Clone)]
pub struct GroupRegistrar {
    pub(super) pool: Pool,
}

impl Groups {
    /// The registered groups, by name; ours is not among them.
    pub async fn registered(&self) -> Result<Vec<GroupRow>, Error> {
        let rows = sqlx::query_as(
            "select name, starts_from, note, registered_at from consumer_groups order by name",
        );
        in_time(QUERY_TIMEOUT, self.pool.all(rows)).await
    }

    /// The highest entry of each partition whose fate the ledger knows, in a
    /// generation of the topology.
    pub async fn reached(&self, generation: i32) -> Result<BTreeMap<u16, StreamId>, Error> {
        let rows = sqlx::query_as(AssertSqlSafe(format!("{CURSORS} where generation = $1")));
        let rows = in_time(QUERY_TIMEOUT, self.pool.all(rows.bind(generation))).await?;
        let reached = |row: PartitionCursor| (row.partition, row.cursor.reached);
        Ok(rows.into_iter().map(reached).collect())
    }
}

impl GroupRegistrar {
    /// Registers a group, with a row in the audit log. A registered group stays unchanged.
    pub async fn register(
        &self,
        name: &str,
        starts_from: &str,
        note: &str,
        actor: &str,
    ) -> Result<(), Error> {
        let register = sqlx::query(
            "with before as (select to_jsonb(g) as it from consumer_groups g where name = $1),
             added as (
                 insert into consumer_groups as g (name, starts_from, note) values ($1, $2, $3)
                 on conflict do nothing returning to_jsonb(g) as it)
             insert into audit_log (actor, action, subject, reason, before, after)
             select $4, 'register_group', $1, $3, (select it from before),
                 (select it from added union all select it from before)",
        );
        let register = register.bind(name).bind(starts_from).bind(note).bind(actor);
        self.pool.change(async |session| register.execute(session).await).await.map(drop)
    }

    /// Removes a group from the registry and notes who did it, and how many
    /// entries it had `unread` and `unacknowledged`, in one step. A group that
    /// is not registered is noted as well: it is about to be removed from Redis.
    pub async fn retire(
        &self,
        name: &str,
        note: Option<&str>,
        actor: &str,
        unread: i64,
        unacknowledged: i64,
    ) -> Result<(), Error> {
        let retire = sqlx::query(
            "with gone as (
                 delete from consumer_groups g where name = $1 returning to_jsonb(g) as it)
             insert into audit_log (actor, action, subject, reason, before)
             select $3, 'retire_group', $1, $2, jsonb_build_object(
                 'registered', (select it from gone), 'unread', $4::bigint,
                 'unacknowledged', $5::bigint)",
        );
        let retire = retire.bind(name).bind(note).bind(actor).bind(unread).bind(unacknowledged);
        self.pool.change(async |session| retire.execute(session).await).await.map(drop)
    }
}
