-- What operators need in order to see what is stuck, to understand it and to
-- mend it.

-- What a worker runs under, so that whoever looks knows when a silent one is
-- taken over, and when an entry is given up.
alter table workers
    add column lease_ms bigint not null default 10000 check (lease_ms > 0),
    add column attempts_max integer not null default 5 check (attempts_max > 0);

-- Set when an operator wants the owner to hand the partition over; the next
-- acquisition clears it.
alter table partition_owners add column release_asked_at timestamptz;

-- Who owned a partition under which epoch. A row of the ledger names its epoch.
create table partition_moves (
    partition integer not null references partition_owners (partition),
    epoch bigint not null,
    owner text not null,
    -- Whose it was, if its owner had not released it.
    previous text,
    acquired_at timestamptz not null default clock_timestamp(),
    primary key (partition, epoch)
);

-- Every attempt beside the ordinary, one row as it begins and one as it fails.
create table attempts (
    id bigint generated always as identity primary key,
    partition integer not null references partition_owners (partition),
    first_stream_id text not null,
    last_stream_id text not null,
    attempt integer not null check (attempt >= 1),
    -- What it ended with; null where it began.
    error text,
    worker text not null,
    epoch bigint not null,
    at timestamptz not null default clock_timestamp()
);
create index attempts_partition on attempts (partition, id);

-- Dead letters by whom they are of, and what became of them.
alter table dead_letters
    add column customer_id text collate "C",
    add column amount numeric(18, 2),
    add column resolved_at timestamptz,
    add constraint dead_letters_resolved check ((state = 'dead') = (resolved_at is null));
create index dead_letters_open on dead_letters (id) where state = 'dead';
create index dead_letters_customer on dead_letters (customer_id, id);

-- The customer that an operator found for money of an unknown one.
alter table suspense add column assigned_to text collate "C";
create index suspense_open on suspense (held_at, transaction_reference) where state = 'held';

alter table conflicts add column resolved_at timestamptz;
create index conflicts_open on conflicts (detected_at, partition, sequence) where state = 'open';

create index audit_log_subject on audit_log (subject, id);

-- The trace that brought a payment, where there was one: 16 bytes.
alter table processed_transactions add column trace_id bytea;
alter table suspense add column trace_id bytea;
alter table conflicts add column trace_id bytea;
alter table parked add column trace_id bytea;
alter table dead_letters add column trace_id bytea;

create index duplicates_reference on duplicates (transaction_reference);
-- Who is parked, without looking at every account.
create index customer_accounts_parked on customer_accounts (parked_at) where parked_at is not null;

-- A released payment is found by its reference, too.
drop index parked_reference;
create index parked_reference on parked (transaction_reference);
