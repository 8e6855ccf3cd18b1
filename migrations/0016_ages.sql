-- The newest entry of every stream at moments that were, by this clock: how old
-- entries are for a worker that has just started. A few rows; old ones go.
create table stream_ages (
    noted_at timestamptz primary key default clock_timestamp(),
    generation integer not null,
    -- Ids in the order of partitions.
    newest text[] not null
);
