//! A change of the number of partitions, in PostgreSQL: the request, the switch, and the removal
//! of earlier topologies. Never touches a payment.

use super::{
    Error, Signature,
    address::Address,
    jumps::{Jump, jumps, unlisted},
    lookups,
    schema::add_partitions,
    session::{Session, commit},
};

/// Names the lock that lets one process at a time change the topology.
const LOCK: i64 = 0x7061_7973_7472;
/// A worker without a heartbeat for so long does not count.
const SILENT_SECONDS: i32 = 30;

/// The right to change the number of partitions, held by one process at a time
/// and for as long as its connection lives.
pub struct Resize {
    connection: Session,
}

impl Resize {
    /// None while another process has the right.
    pub(super) async fn connect(address: &Address) -> Result<Option<Self>, Error> {
        let mut connection = address.connect().await?;
        let is_locked = connection.lock(LOCK).await?;
        Ok(is_locked.then_some(Self { connection }))
    }

    /// Records the wanted number; false when a change to another one is under way. Payments
    /// are refused from here on, so that the audit log has who began it.
    pub async fn wish(&mut self, partitions: u16, by: &Signature) -> Result<bool, Error> {
        let wish = sqlx::query(
            "with logged as (
                 insert into audit_log (actor, action, subject, reason, before, after)
                 select $2, case when partitions = $1 then 'topology_move_begun'
                     else 'topology_resize_begun' end, 'topology', nullif($3, ''),
                     to_jsonb(partitions), to_jsonb($1) from topology where resizing_to is null)
             update topology set resizing_to = $1,
                 resize_started_at = coalesce(resize_started_at, clock_timestamp())
             where resizing_to is null or resizing_to = $1",
        );
        let wish = wish.bind(i32::from(partitions)).bind(&by.actor).bind(&by.reason);
        let wished = self.connection.change(async |session| wish.execute(session).await).await?;
        Ok(wished.rows_affected() == 1)
    }

    pub async fn forget(&mut self, by: &Signature) -> Result<(), Error> {
        let forget = sqlx::query(
            "with logged as (
                 insert into audit_log (actor, action, subject, reason, before, after)
                 select $1, case when partitions = resizing_to then 'topology_move_aborted'
                     else 'topology_resize_aborted' end, 'topology', nullif($2, ''),
                     to_jsonb(resizing_to), to_jsonb(partitions)
                 from topology where resizing_to is not null)
             update topology set resizing_to = null, resize_started_at = null",
        );
        let forget = forget.bind(&by.actor).bind(&by.reason);
        self.connection.change(async |session| forget.execute(session).await).await.map(drop)
    }

    pub async fn has_workers(&mut self) -> Result<bool, Error> {
        let live = sqlx::query_scalar(
            "select exists (select 1 from workers
             where beat_at between clock_timestamp() - $1 * interval '1 second'
                 and clock_timestamp() + $1 * interval '1 second')",
        );
        let live = live.bind(SILENT_SECONDS);
        self.connection.ask(async |session| live.fetch_one(session).await).await
    }

    /// Partitions whose drained stream has given out more sequences than the
    /// ledger knows of, as (partition, given, known). Entries that could not be
    /// read count as known: nobody can tell their sequence. So do those that
    /// losses have jumped over, one behind the other.
    pub async fn missing(&mut self, given: &[i64]) -> Result<Vec<(i32, i64, i64)>, Error> {
        let ahead = sqlx::query_as(
            "select partition, given, last_sequence, (select count(*) from dead_letters d
                 where d.partition = partition_owners.partition and d.sequence is null)
             from unnest($1::bigint[]) with ordinality as closed (given, number)
             join partition_owners on partition = number - 1
             where given > last_sequence order by partition",
        );
        let ahead = ahead.bind(given);
        let ahead: Vec<(i32, i64, i64, i64)> =
            self.connection.ask(async |session| ahead.fetch_all(session).await).await?;
        let mut missing = Vec::new();
        for (partition, given, known, unread) in ahead {
            let number = lookups::partition(partition)?;
            let asking = async |session: &mut Session| jumps(session, number).await;
            let jumps = self.connection.ask(asking).await?;
            let behind = jumps.iter().filter(|jump| jump.after_sequence >= known);
            let unknown = unlisted(known + 1, given, behind.map(Jump::ends));
            if unknown.iter().map(|(first, last)| last - first + 1).sum::<i64>() > unread {
                missing.push((partition, given, known));
            }
        }
        Ok(missing)
    }

    pub async fn highest_sequence(&mut self) -> Result<i64, Error> {
        let highest = sqlx::query_scalar(
            "select coalesce(max(greatest(last_sequence, head_sequence)), 0) from partition_owners",
        );
        self.connection.ask(async |session| highest.fetch_one(session).await).await
    }

    /// Switches from `generation` to the next, whose sequences begin after
    /// `sequence`, in one transaction; `in_cluster` says where its streams are. Every
    /// epoch rises, so that no batch of an earlier owner commits after it.
    ///
    /// # Errors
    /// [`Error::Resized`] when the topology is not the one, or not on its way
    /// to this number; nothing is changed then.
    pub async fn switch(
        &mut self,
        generation: i32,
        partitions: u16,
        sequence: i64,
        in_cluster: bool,
        by: &Signature,
    ) -> Result<(), Error> {
        let mut transaction = self.connection.begin().await?;
        // The fence rows come first, as everywhere.
        sqlx::query("select 1 from partition_owners order by partition for update")
            .execute(&mut *transaction)
            .await?;
        let switched = sqlx::query(
            "with past as (
                 insert into past_topologies (generation, partitions)
                 select generation, partitions from topology
                 where generation = $1 and resizing_to = $2)
             update topology set generation = $1 + 1, partitions = $2, resizing_to = null,
                 resize_started_at = null, in_cluster = $4
             where generation = $1 and resizing_to = $2
                 and not exists (select 1 from partition_owners where last_sequence > $3)",
        );
        let switched = switched.bind(generation).bind(i32::from(partitions)).bind(sequence);
        let switched = switched.bind(in_cluster);
        if switched.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Err(Error::Resized);
        }
        add_partitions(&mut transaction, partitions).await?;
        // Where nothing was settled since an earlier jump, that one grows.
        sqlx::query(
            "insert into sequence_jumps
                 (partition, after_sequence, resumes_at, kinds, reason, detail, state)
             select partition, last_sequence, $2 + 1, array['resize'], 'resize',
                 'the number of partitions was changed to ' || $1, 'accepted'
             from partition_owners where partition < $1
             on conflict (partition, after_sequence) do update
                 set resumes_at = greatest(sequence_jumps.resumes_at, excluded.resumes_at),
                     kinds = case when excluded.kinds <@ sequence_jumps.kinds
                         then sequence_jumps.kinds
                         else sequence_jumps.kinds || excluded.kinds end",
        )
        .bind(i32::from(partitions))
        .bind(sequence)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            // Part of none, until a later topology has it again.
            "update partition_owners set owner = null, epoch = epoch + 1, draining_to = null,
                 moved_at = clock_timestamp(), generation = 0",
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "update partition_owners set generation = $1, last_sequence = $2, head_sequence = $2,
                 last_stream_id = '0-0', reached_stream_id = '0-0'
             where partition < $3",
        )
        .bind(generation + 1)
        .bind(sequence)
        .bind(i32::from(partitions))
        .execute(&mut *transaction)
        .await?;
        // Last, when nothing else is to be locked: see migrations/0019_audit_chain.sql.
        sqlx::query(
            "insert into audit_log (actor, action, subject, reason, before, after)
             select $2, case when partitions = $4::int then 'topology_move'
                     else 'topology_resize' end, 'topology', nullif($3, ''), to_jsonb(partitions),
                 to_jsonb($4::int) from past_topologies where generation = $1",
        )
        .bind(generation)
        .bind(&by.actor)
        .bind(&by.reason)
        .bind(i32::from(partitions))
        .execute(&mut *transaction)
        .await?;
        commit(transaction).await
    }

    /// Remembers that the streams of an earlier topology are removed.
    pub async fn set_removed(&mut self, generation: i32) -> Result<(), Error> {
        let removed = sqlx::query(
            "update past_topologies set removed_at = clock_timestamp()
             where generation = $1 and removed_at is null",
        )
        .bind(generation);
        self.connection.change(async |session| removed.execute(session).await).await.map(drop)
    }
}
