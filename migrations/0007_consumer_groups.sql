-- Consumer groups of others that read our streams, and that trimming waits for.
-- Our own, `ledger`, is always there and needs no row.
create table consumer_groups (
    name text collate "C" primary key
        check (name ~ '^[A-Za-z0-9._-]{1,64}$' and name <> 'ledger'),
    -- Where it began on each stream: with the oldest entry kept, or with the
    -- next one appended.
    starts_from text not null check (starts_from in ('start', 'now')),
    -- Whose it is and what for, so that somebody can be asked.
    note text not null check (note <> ''),
    registered_at timestamptz not null default clock_timestamp()
);
