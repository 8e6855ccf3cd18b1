-- How many partitions there are, and by which hash a customer finds one.
-- Written once when the topology is created; a process configured otherwise
-- refuses to start, because another count would re-order customers.
create table topology (
    singleton boolean primary key default true check (singleton),
    partitions integer not null check (partitions between 1 and 1024),
    hash_version smallint not null,
    key_prefix text not null,
    -- Set once the streams and their groups exist in Redis. From then on a
    -- missing stream is lost state, never something to create again in silence.
    provisioned_at timestamptz,
    created_at timestamptz not null default now()
);

-- Who works. The beat is always PostgreSQL's clock, never a worker's.
create table workers (
    worker_id text primary key,
    -- Changes with every start: a second process with the same id is told apart.
    incarnation uuid not null,
    started_at timestamptz not null default clock_timestamp(),
    beat_at timestamptz not null default clock_timestamp()
);

-- Who owns a partition, and how far the ledger has come with it. The row is
-- the fence: a batch locks it, checks owner and epoch, and moves the cursor in
-- the same transaction as the money.
create table partition_owners (
    partition integer primary key check (partition >= 0),
    owner text,
    -- Rises with every acquisition and never falls.
    epoch bigint not null default 0,
    last_sequence bigint not null default 0,
    last_stream_id text not null default '0-0',
    draining_to text,
    moved_at timestamptz not null default now()
) with (fillfactor = 50);

-- What each partition has brought into the ledger, kept beside the cursor so
-- that totals are read from a few rows instead of from every payment.
create table partition_totals (
    partition integer primary key references partition_owners (partition),
    applied bigint not null default 0,
    recorded bigint not null default 0,
    rejected bigint not null default 0,
    suspense bigint not null default 0,
    conflicts bigint not null default 0,
    duplicates bigint not null default 0,
    dead_letters bigint not null default 0,
    -- The whole amount of applied payments: the applied part and the excess.
    amount numeric(24, 2) not null default 0
) with (fillfactor = 50);
