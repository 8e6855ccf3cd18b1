-- Another number of partitions. Customers move between partitions, so every
-- topology has keys and fence rows of its own: its generation tells them apart.
alter table topology
    add column generation integer not null default 1,
    -- The number that is being changed to, from the wish until the switch.
    add column resizing_to integer check (resizing_to between 1 and 1024),
    add column resize_started_at timestamptz;

-- The topology that the partition is part of. One that a later topology does not
-- have stays, with its cursor and totals, under 0: nobody can acquire it.
alter table partition_owners add column generation integer not null default 1;

-- Topologies that were, and whether their streams have been removed.
create table past_topologies (
    generation integer primary key,
    partitions integer not null,
    ended_at timestamptz not null default clock_timestamp(),
    removed_at timestamptz
);
