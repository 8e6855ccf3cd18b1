-- processed_transactions by months of processed_at, so that old ones can be detached and archived.
-- The table that is there becomes the first month as it is: nothing is copied, and payments wait
-- while PostgreSQL reads it once.

create table payment_months (
    -- Of the table.
    name text primary key,
    starts_at timestamptz not null,
    ends_at timestamptz not null check (ends_at > starts_at),
    -- When it was taken out of processed_transactions; null while it is in it.
    detached_at timestamptz
);
create index payment_months_in_use on payment_months (starts_at, ends_at) where detached_at is null;

lock table processed_transactions in access exclusive mode;

-- Rights on what is made anew here: processes of the release before go on meanwhile.
create temporary table granted on commit drop as
select relname::text as name, grantee::regrole::text as role, privilege_type as word
from pg_class cross join lateral aclexplode(relacl)
where oid in ('processed_transactions'::regclass, 'taken_payments'::regclass,
        'found_payments'::regclass, 'payment_outcomes'::regclass)
    and grantee <> relowner and grantee <> 0;

-- Other rules: used_references has the key, and the first month keeps its own.
drop trigger processed_transactions_one_place on processed_transactions;
drop function refuse_held_reference;
drop trigger suspense_claim on suspense;
drop trigger parked_claim on parked;
drop function claim_reference;
drop view payment_outcomes, found_payments, taken_payments;
drop trigger processed_transactions_use on processed_transactions;
drop trigger processed_transactions_undeletable on processed_transactions;
alter table processed_transactions rename to processed_transactions_first;

create table processed_transactions (
    like processed_transactions_first including defaults including constraints including storage
) partition by range (processed_at);

create trigger processed_transactions_append_only
    before update or truncate on processed_transactions
    for each statement execute function refuse_change();
-- A process of the release before claims a reference with a row that it deletes.
create trigger processed_transactions_undeletable
    before delete on processed_transactions
    for each row when (old.stream_id <> 'claim') execute function refuse_change();
create trigger processed_transactions_use after insert on processed_transactions
    referencing new table as settled
    for each statement execute function use_references();

-- Makes the month of this instant, unless it is there. An instant in a month that was detached gets a
-- table beside it: a clock that went wrong stops no payment.
create function make_payment_month(instant timestamptz) returns void language plpgsql as $$
declare
    first timestamptz := date_trunc('month', instant at time zone 'UTC') at time zone 'UTC';
    behind timestamptz :=
        (date_trunc('month', instant at time zone 'UTC') + interval '1 month') at time zone 'UTC';
    plain text := 'processed_transactions_' || to_char(instant at time zone 'UTC', 'YYYY_MM');
    month text := plain;
    number integer := 1;
begin
    -- One at a time: whoever comes second finds what the first has made.
    perform pg_advisory_xact_lock(hashtext('paystream_payment_months'));
    if exists (select from payment_months
            where detached_at is null and starts_at <= instant and ends_at > instant) then
        return;
    end if;
    while to_regclass(quote_ident(month)) is not null
            or exists (select from payment_months where name = month) loop
        number := number + 1;
        month := plain || '_' || number;
    end loop;
    execute format('create table %I (
        like processed_transactions including defaults including constraints including storage)', month);
    -- Two payments never take one version.
    execute format('create unique index %I on %I (customer_id, account_version)',
        month || '_statement', month);
    -- Where used_references says that a payment is.
    execute format('create index %I on %I (processed_at)', month || '_processed_at', month);
    -- By which the release before deletes its claims: nothing is in it.
    execute format('create index %I on %I (transaction_reference) where stream_id = ''claim''',
        month || '_claim', month);
    -- A statement about the month alone does not meet the triggers of the whole.
    execute format('create trigger processed_transactions_append_only before update or truncate on %I
        for each statement execute function refuse_change()', month);
    execute format('alter table processed_transactions attach partition %I for values from (%L) to (%L)',
        month, first, behind);
    insert into payment_months (name, starts_at, ends_at) values (month, first, behind);
end $$;

-- Called in each transaction that settles, before it does: makes the month that is needed now, and the
-- next two long before they are. With the rights of its owner, who owns the tables. The clock is
-- PostgreSQL's, the one that gives payments their processed_at. True, always.
create function need_payment_months() returns boolean language plpgsql security definer as $$
declare
    now_at timestamptz := clock_timestamp();
    ready boolean;
begin
    select count(*) = 2 into ready from (values (now_at), (now_at + interval '31 days')) needed (instant)
    where exists (select from payment_months
        where detached_at is null and starts_at <= instant and ends_at > instant);
    if not ready then
        perform make_payment_months(now_at);
    end if;
    return true;
end $$;

create function make_payment_months(now_at timestamptz) returns void language plpgsql as $$
declare
    patience text := current_setting('lock_timeout');
begin
    perform make_payment_month(now_at);
    -- Somebody who holds the table must not keep payments waiting for a month ahead.
    perform set_config('lock_timeout', '10ms', true);
    for ahead in 1..2 loop
        begin
            perform make_payment_month(now_at + ahead * interval '1 month');
        exception when others then
            -- The next transaction tries again, and the doctor tells it.
            null;
        end;
    end loop;
    perform set_config('lock_timeout', patience, true);
end $$;

do $$
declare
    function text;
    last timestamptz;
begin
    foreach function in array array['need_payment_months()', 'make_payment_months(timestamptz)',
            'make_payment_month(timestamptz)'] loop
        -- pg_catalog is searched first all the same; tables are made in the first that is named.
        execute format('alter function %s set search_path = %I, pg_temp', function, current_schema());
    end loop;
    select max(processed_at) into last from processed_transactions_first;
    if last is null then
        drop table processed_transactions_first;
    else
        last := (date_trunc('month', greatest(last, clock_timestamp()) at time zone 'UTC')
            + interval '1 month') at time zone 'UTC';
        execute format('alter table processed_transactions attach partition
            processed_transactions_first for values from (minvalue) to (%L)', last);
        insert into payment_months values ('processed_transactions_first', '-infinity', last, null);
    end if;
    perform make_payment_months(clock_timestamp());
end $$;

-- Rows that tell what became of a payment, as in 0018, whatever their table. A payment that is settled
-- is found by the time that used_references has of it, in one month.
create view settled_payments as
select u.transaction_reference, u.payment_status, outcome as state, outcome as found_as,
    outcome as counted_as, true as takes_reference, customer_id, amount, null::text as code, reason,
    applied_amount, excess_amount, balance_after, account_version, p.partition, p.sequence, stream_id,
    epoch, transaction_date, received_at, processed_at as at, p.payload_digest, trace_id
from used_references u join processed_transactions p on processed_at = settled_at
    and (p.transaction_reference, p.payment_status) = (u.transaction_reference, u.payment_status);

create view held_payments as
select transaction_reference, 'COMPLETE'::text collate "C" as payment_status,
    case state when 'held' then 'suspense' else 'was_suspense' end collate "C" as state,
    case state when 'held' then 'suspense' when 'refund_marked' then state end collate "C" as found_as,
    case when state in ('held', 'refund_marked') then 'suspense' end collate "C" as counted_as,
    state <> 'conflict' as takes_reference, customer_id, amount, null::text as code,
    null::text as reason, null::numeric as applied_amount, null::numeric as excess_amount,
    null::numeric as balance_after, null::bigint as account_version, partition, sequence, stream_id,
    epoch, transaction_date, received_at, held_at as at, payload_digest, trace_id
from suspense
union all
select transaction_reference, payment_status,
    case state when 'held' then 'parked' else 'was_parked' end collate "C",
    case state when 'held' then 'parked' end collate "C",
    case state when 'held' then 'parked' end collate "C",
    state = 'held', customer_id, amount, null, null, null, null, null, null, partition, sequence,
    stream_id, epoch, transaction_date, received_at, parked_at, payload_digest, trace_id
from parked;

create view taken_payments as
select * from settled_payments union all select * from held_payments;

-- The entry of a dead letter is its own, as far as it could be read.
create view dead_payments as
select transaction_reference collate "C" as transaction_reference,
    case when code <> 'entry_unreadable'
        then (entry ->> 'payment')::jsonb ->> 'payment_status' end collate "C" as payment_status,
    case state when 'dead' then 'dead_lettered' else state end collate "C" as state,
    case state when 'dead' then 'dead_lettered' when 'discarded' then state end collate "C" as found_as,
    'dead_lettered'::text collate "C" as counted_as, false as takes_reference, customer_id, amount,
    code, reason, null::numeric as applied_amount, null::numeric as excess_amount,
    null::numeric as balance_after, null::bigint as account_version, partition, sequence, stream_id,
    epoch,
    case when code <> 'entry_unreadable'
        then ((entry ->> 'payment')::jsonb ->> 'transaction_date')::timestamptz end as transaction_date,
    case when code <> 'entry_unreadable'
        then to_timestamp((entry ->> 'received_at')::bigint / 1000.0) end as received_at,
    dead_at as at, null::bytea as payload_digest, trace_id
from dead_letters;

create view found_payments as
select * from taken_payments union all select * from dead_payments;

-- All that is not settled, without the months.
create view unsettled_outcomes as
select * from held_payments
union all
select * from dead_payments
union all
-- A second row, for when it was marked.
select transaction_reference, 'COMPLETE'::text collate "C", state collate "C", null, null, false,
    customer_id, amount, null, null, null, null, null, null, partition, sequence, stream_id, epoch,
    transaction_date, received_at, resolved_at, payload_digest, trace_id
from suspense where state = 'refund_marked'
union all
select transaction_reference, payment_status collate "C", 'conflict'::text collate "C", null,
    'conflict'::text collate "C", false, customer_id collate "C", amount, null, null, null, null, null,
    null, partition, sequence, stream_id, epoch, transaction_date, received_at, detected_at,
    payload_digest, trace_id
from conflicts
union all
select transaction_reference, payment_status collate "C", 'duplicate'::text collate "C", null,
    'duplicate'::text collate "C", false, null, null, null, null, null, null, null, null, partition,
    sequence, stream_id, epoch, null, received_at, detected_at, null, null
from duplicates;

create view payment_outcomes as
select * from settled_payments union all select * from unsettled_outcomes;

do $$
declare
    entry granted;
begin
    for entry in select * from granted loop
        execute format('grant %s on %I to %s', entry.word, entry.name, entry.role);
        -- Nobody writes to a month by itself: the keys of its payments would not be taken.
        if to_regclass('processed_transactions_first') is not null then
            execute format('revoke all on processed_transactions_first from %s', entry.role);
        end if;
    end loop;
end $$;
