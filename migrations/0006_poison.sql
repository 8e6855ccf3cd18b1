-- Entries that cannot be settled: how often they were tried, and what waits
-- behind them.

-- What is being tried on a partition beside the ordinary: entries that came
-- back, or one that failed before. Written before the attempt, so that an
-- attempt that ended its worker is counted too.
create table partition_trials (
    partition integer primary key references partition_owners (partition),
    first_stream_id text not null,
    last_stream_id text not null,
    attempts integer not null check (attempts >= 1),
    -- What an attempt ended with; null while one is under way, and for ever
    -- when its worker died of it.
    error text,
    worker text not null,
    epoch bigint not null,
    tried_at timestamptz not null default clock_timestamp()
);

-- Set when a payment of the customer became a dead letter and what comes after
-- it is to wait: its deliveries are parked until an operator releases them.
alter table customer_accounts add column parked_at timestamptz;

-- Deliveries behind a dead letter, in their order.
create table parked (
    partition integer not null,
    sequence bigint not null,
    transaction_reference text collate "C" not null,
    payment_status text collate "C" not null,
    customer_id text collate "C" not null,
    amount numeric(18, 2) not null check (amount > 0),
    stream_id text not null,
    epoch bigint not null,
    transaction_date timestamptz not null,
    received_at timestamptz not null,
    payload_digest bytea not null,
    state text not null default 'held' check (state in ('held', 'released')),
    parked_at timestamptz not null default clock_timestamp(),
    released_at timestamptz,
    primary key (partition, sequence),
    check ((state = 'held') = (released_at is null))
);
create index parked_held on parked (customer_id, sequence) where state = 'held';
create index parked_reference on parked (transaction_reference) where state = 'held';

alter table partition_totals add column parked bigint not null default 0;
