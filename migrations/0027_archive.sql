-- A month belongs to the owner of the whole, whoever makes it, and nobody else makes any.
alter function make_payment_month(timestamptz) security definer;
revoke execute on function make_payment_month(timestamptz), make_payment_months(timestamptz) from public;

-- What stays of a month that is detached: where each statement goes on from, and which sequences are
-- settled in it, so that the audit adds up without its rows. `paystream archive detach` writes both,
-- with detached_at of the month, in one transaction; the table is detached right after.

-- Of each customer who has rows in detached months: all of them together.
create table opening_balances (
    customer_id text collate "C" primary key,
    -- The last version that was detached, and the balance after it.
    version bigint not null,
    balance_after numeric(18, 2) not null,
    applied numeric(24, 2) not null,
    excess numeric(24, 2) not null,
    payments bigint not null
);

create table archived_sequences (
    month text not null references payment_months (name),
    partition integer not null,
    sequences int8multirange not null,
    applied bigint not null,
    recorded bigint not null,
    rejected bigint not null,
    amount numeric(24, 2) not null,
    primary key (month, partition)
);
create trigger archived_sequences_append_only
    before update or delete or truncate on archived_sequences
    for each statement execute function refuse_change();

-- Payments that are not archived. A month that is about to be detached is archived already.
create view kept_transactions as
select * from processed_transactions
where tableoid <> all (array(select to_regclass(quote_ident(name))::oid from payment_months
    where detached_at is not null and to_regclass(quote_ident(name)) is not null));

-- What a look-up answers of a payment whose month is detached: it was settled then. Its reference
-- stays used, for good.
create or replace view found_payments as
select * from taken_payments
union all
select * from dead_payments
union all
select transaction_reference, payment_status, 'archived'::text collate "C", 'archived'::text collate "C",
    null, true, null, null::numeric(18, 2), null, null, null, null, null, null, partition, sequence, null, null, null,
    null, settled_at, payload_digest, null
from used_references u
where settled_at is not null and exists (select from payment_months
        where detached_at is not null and settled_at >= starts_at and settled_at < ends_at)
    and not exists (select from processed_transactions p where processed_at = settled_at
        and (p.transaction_reference, p.payment_status) = (u.transaction_reference, u.payment_status));

-- Owners of partitions that are old go by retention.
create index partition_moves_acquired on partition_moves (acquired_at);

-- How far the audit log was pruned: rows up to this position may go, and the chain goes on from
-- this digest. Pruning is a row of the log itself, with the same position and digest.
create table audit_log_anchor (
    singleton boolean primary key default true check (singleton),
    position bigint not null,
    digest bytea not null
);
create function refuse_unpruned() returns trigger language plpgsql as $$
begin
    if not exists (select from audit_log_anchor where position >= old.position) then
        raise exception 'audit_log is append-only: DELETE refused' using errcode = 'restrict_violation';
    end if;
    return old;
end $$;
do $$
begin
    execute format('alter function refuse_unpruned() set search_path = pg_catalog, %I, pg_temp',
        current_schema());
end $$;
drop trigger audit_log_append_only on audit_log;
create trigger audit_log_append_only before update or truncate on audit_log
    for each statement execute function refuse_change();
create trigger audit_log_undeletable before delete on audit_log
    for each row execute function refuse_unpruned();
