-- Where accepted payments are that did not reach an account, and why.

-- Money that arrived for a customer we do not know. Applied when the account
-- is opened, or moved by an operator.
create table suspense (
    transaction_reference text collate "C" primary key,
    customer_id text collate "C" not null,
    amount numeric(18, 2) not null check (amount > 0),
    partition integer not null,
    sequence bigint not null,
    stream_id text not null,
    epoch bigint not null,
    transaction_date timestamptz not null,
    received_at timestamptz not null,
    payload_digest bytea not null,
    state text not null default 'held' check (state in ('held', 'applied', 'conflict', 'refund_marked')),
    held_at timestamptz not null default clock_timestamp(),
    resolved_at timestamptz,
    check ((state = 'held') = (resolved_at is null))
);
create index suspense_held on suspense (customer_id, sequence) where state = 'held';

-- Same reference and status, other content: no effect, kept for review.
create table conflicts (
    partition integer not null,
    sequence bigint not null,
    transaction_reference text collate "C" not null,
    payment_status text not null,
    customer_id text not null,
    amount numeric(18, 2) not null,
    stream_id text not null,
    epoch bigint not null,
    transaction_date timestamptz not null,
    received_at timestamptz not null,
    payload_digest bytea not null,
    state text not null default 'open' check (state in ('open', 'resolved')),
    detected_at timestamptz not null default clock_timestamp(),
    primary key (partition, sequence)
);
create index conflicts_reference on conflicts (transaction_reference);

-- Same reference, same content, sent again after the stream had forgotten it.
-- No effect; kept so that every sequence is accounted for.
create table duplicates (
    partition integer not null,
    sequence bigint not null,
    transaction_reference text collate "C" not null,
    payment_status text not null,
    stream_id text not null,
    epoch bigint not null,
    received_at timestamptz not null,
    detected_at timestamptz not null default clock_timestamp(),
    primary key (partition, sequence)
);

-- Entries that could not be settled, with all that is known about them.
create table dead_letters (
    id bigint generated always as identity primary key,
    partition integer not null,
    stream_id text not null,
    -- Null when the entry could not be read so far.
    sequence bigint,
    transaction_reference text collate "C",
    -- A stable class, for instance entry_unreadable; then the sentence.
    code text not null,
    reason text not null,
    -- The entry's fields as they were, so that nothing is lost by burying it.
    entry jsonb not null,
    attempts integer not null check (attempts >= 1),
    epoch bigint not null,
    state text not null default 'dead' check (state in ('dead', 'redriven', 'discarded')),
    dead_at timestamptz not null default clock_timestamp(),
    unique (partition, stream_id)
);
create index dead_letters_reference on dead_letters (transaction_reference);

-- Who changed what by hand, when, why, and what it was before.
create table audit_log (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    subject text not null,
    reason text,
    before jsonb,
    after jsonb
);
create trigger audit_log_append_only
    before update or delete or truncate on audit_log
    for each statement execute function refuse_change();
