-- Workers that come and go, and what is known about each partition's stream.

-- A worker that is leaving serves on until others have asked for its partitions.
alter table workers add column leaving boolean not null default false;

-- The highest sequence that the stream is known to have given out. A stream
-- whose own count is below this, or below the cursor, has gone back in time.
alter table partition_owners add column head_sequence bigint not null default 0;

-- Where a partition's sequences do not follow on each other, and why. The
-- sequences after the one and before the other belong to no settled entry.
create table sequence_jumps (
    partition integer not null references partition_owners (partition),
    after_sequence bigint not null,
    resumes_at bigint not null,
    -- resize: the partition was cut anew. state_lost: its stream was gone or
    -- had gone back. entries_missing: entries were taken out of its stream.
    reason text not null check (reason in ('resize', 'state_lost', 'entries_missing')),
    -- Sequences known to have been given out that were never settled.
    lost_first bigint,
    lost_last bigint,
    detail text not null,
    state text not null default 'open' check (state in ('open', 'accepted')),
    detected_at timestamptz not null default clock_timestamp(),
    primary key (partition, after_sequence),
    check (resumes_at > after_sequence),
    check ((lost_first is null) = (lost_last is null)),
    check (lost_first <= lost_last),
    -- Nothing is lost by a resize, so nobody has to look at it.
    check (reason <> 'resize' or (state = 'accepted' and lost_first is null))
);
