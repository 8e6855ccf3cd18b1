-- Every payment that reached an account, in the account's own order. The key
-- is the exactly-once promise: a reference is COMPLETE once, whatever is sent,
-- redelivered or replayed. Other statuses are notices beside it.
create table processed_transactions (
    transaction_reference text collate "C" not null,
    payment_status text collate "C" not null,
    customer_id text collate "C" not null,
    amount numeric(18, 2) not null,
    outcome text collate "C" not null,
    -- Why a payment was rejected; null otherwise.
    reason text,
    applied_amount numeric(18, 2) not null,
    excess_amount numeric(18, 2) not null,
    -- The account after this row. Null only for a notice about a customer who
    -- has no account.
    balance_after numeric(18, 2),
    account_version bigint,
    partition integer not null,
    sequence bigint not null,
    stream_id text not null,
    epoch bigint not null,
    transaction_date timestamptz not null,
    received_at timestamptz not null,
    processed_at timestamptz not null default clock_timestamp(),
    payload_digest bytea not null,
    primary key (transaction_reference, payment_status),
    check (amount > 0),
    check (payment_status in ('COMPLETE', 'PENDING', 'FAILED')),
    -- The state machine, once more: only COMPLETE moves money, all of it.
    check (case outcome
        when 'applied' then payment_status = 'COMPLETE' and reason is null
            and applied_amount >= 0 and excess_amount >= 0
            and applied_amount + excess_amount = amount and account_version is not null
        when 'recorded' then payment_status <> 'COMPLETE' and reason is null
            and applied_amount = 0 and excess_amount = 0
        when 'rejected' then payment_status = 'COMPLETE' and reason is not null
            and applied_amount = 0 and excess_amount = 0
        else false end)
);

-- The statement, and the guarantee that two payments never take one version.
create unique index processed_transactions_statement
    on processed_transactions (customer_id, account_version);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % refused', tg_table_name, tg_op
        using errcode = 'restrict_violation';
end $$;

create trigger processed_transactions_append_only
    before update or delete or truncate on processed_transactions
    for each statement execute function refuse_change();
