-- A ledger that has gone back in time is told from one that is merely behind.

-- The highest entry whose fate the ledger knows. The cursor is the highest one
-- with a sequence; an entry that could not be read, or was deleted while it was
-- pending, moves only this. What our group has acknowledged is never behind it,
-- unless the ledger has lost commits.
alter table partition_owners add column reached_stream_id text not null default '0-0';
update partition_owners p set reached_stream_id = (
    select id from (
        select p.last_stream_id as id
        union all select stream_id from dead_letters d where d.partition = p.partition) ids
    order by split_part(id, '-', 1)::numeric desc, split_part(id, '-', 2)::numeric desc limit 1);

-- ledger_lost: the ledger had lost commits (a promoted standby, a restored
-- backup), and what they settled was no longer in the stream.
alter table sequence_jumps drop constraint sequence_jumps_reason_check;
alter table sequence_jumps add constraint sequence_jumps_reason_check
    check (reason in ('resize', 'state_lost', 'entries_missing', 'ledger_lost'));
