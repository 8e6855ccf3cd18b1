-- The key of every payment that uses its reference, in one table of its own: tables of payments can
-- then be cut by months, and a reference is used once in all of them. A row is written in the
-- transaction that settles, holds or parks the payment, by triggers, whatever release does that.
-- This migration and the next one stop nobody: until 0026, the key of processed_transactions counts.
create table used_references (
    sequence bigint not null,
    -- When it was settled, which names its month; null while it is held or parked.
    settled_at timestamptz,
    partition integer not null,
    transaction_reference text collate "C" not null,
    payment_status text collate "C" not null,
    -- Tells a repetition from a conflict when the payment's month is archived.
    payload_digest bytea not null,
    primary key (transaction_reference, payment_status)
);

-- A reference that is used stays used, by the same entry.
create trigger used_references_undeletable
    before delete or truncate on used_references
    for each statement execute function refuse_change();
create trigger used_references_unchangeable
    before update on used_references for each row
    when (old.settled_at is not null
        or (old.transaction_reference, old.payment_status, old.partition, old.sequence, old.payload_digest)
            is distinct from
            (new.transaction_reference, new.payment_status, new.partition, new.sequence, new.payload_digest))
    execute function refuse_change();

-- Payments that are settled take their references, or keep those under which they were held. The
-- error is the one of a key that is taken, so that the batch is decided again. What the release
-- before claims is held a moment later, in the same transaction.
create function use_references() returns trigger language plpgsql security definer as $$
declare
    used bigint;
begin
    insert into used_references as u
        (transaction_reference, payment_status, payload_digest, partition, sequence, settled_at)
    select transaction_reference, payment_status, payload_digest, partition, sequence,
        case when stream_id <> 'claim' then processed_at end
    from settled
    on conflict (transaction_reference, payment_status) do update set settled_at = excluded.settled_at
        where u.settled_at is null
            and (u.partition, u.sequence) = (excluded.partition, excluded.sequence);
    get diagnostics used = row_count;
    if used <> (select count(*) from settled) then
        raise exception 'a reference of these payments is used' using errcode = 'unique_violation';
    end if;
    return null;
end $$;

-- The same for a payment in suspense or in the parking.
create function hold_reference() returns trigger language plpgsql security definer as $$
begin
    -- Each row of the parking has a status; money in suspense is COMPLETE.
    insert into used_references as u
        (transaction_reference, payment_status, payload_digest, partition, sequence)
    values (new.transaction_reference, coalesce(to_jsonb(new) ->> 'payment_status', 'COMPLETE'),
        new.payload_digest, new.partition, new.sequence)
    on conflict (transaction_reference, payment_status) do update set settled_at = null
        where u.settled_at is null and (u.partition, u.sequence) = (excluded.partition, excluded.sequence);
    if not found then
        raise exception 'the reference of this payment is used' using errcode = 'unique_violation';
    end if;
    return new;
end $$;

do $$
begin
    -- No schema that a caller could put its own tables in.
    execute format('alter function use_references() set search_path = pg_catalog, %I, pg_temp',
        current_schema());
    execute format('alter function hold_reference() set search_path = pg_catalog, %I, pg_temp',
        current_schema());
end $$;

create trigger processed_transactions_use after insert on processed_transactions
    referencing new table as settled
    for each statement execute function use_references();
create trigger suspense_hold before insert on suspense
    for each row execute function hold_reference();
create trigger parked_hold before insert on parked
    for each row execute function hold_reference();
