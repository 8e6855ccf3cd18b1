-- Makes tampering with the audit log show: each row has its position, 1, 2, 3, …, and a SHA-256
-- over the digest of the row before and all its own columns. `paystream audit` recomputes them.
--
-- The trigger takes the head's row until its transaction ends, so that there is one chain in the
-- order of commits, without gaps; an id that was rolled back leaves none. No deadlock: whoever
-- notes a change already has every other lock that it needs, so the holder of the head waits for
-- nobody. (Before this release, accepting losses and the switch to another number of partitions
-- noted first; run beside this schema, PostgreSQL may end one of two that meet.) Batches of
-- payments note nothing and never wait for it.

-- The last row's position and digest: without them, removing the last rows would not show.
-- Position 0 has the digest of `ledger`, which tells the chains of two ledgers apart.
create table audit_log_head (
    singleton boolean primary key default true check (singleton),
    ledger uuid not null default gen_random_uuid(),
    position bigint not null,
    digest bytea not null
);

-- role: the session's user in the database; null for rows before this release, when nobody noted it.
alter table audit_log
    add column role text,
    add column position bigint,
    add column digest bytea;

-- A field is its length in bytes, a colon and its text in UTF-8, or `-` for null: no two rows read
-- the same. No text depends on a setting of the session. src/ledger/audit/chain.rs does the same.
create function audit_log_digest(entry audit_log, previous bytea) returns bytea
language sql stable as $$
    select sha256(previous || string_agg(
        coalesce(convert_to(octet_length(field) || ':', 'UTF8') || field, '-'), '' order by number))
    from (select number, convert_to(field, 'UTF8') as field from unnest(array[
        entry.position::text, entry.id::text,
        (extract(epoch from entry.at) * 1000000)::bigint::text,
        entry.role, entry.actor, entry.action, entry.subject, entry.reason,
        entry.before::text, entry.after::text]) with ordinality fields (field, number)) fields
$$;

-- Whatever release inserts the row, and whatever it says of these columns. With the rights of its
-- owner: who notes a change needs none on the head.
create function chain_audit_log() returns trigger language plpgsql security definer as $$
declare
    previous bytea;
begin
    select position + 1, digest into strict new.position, previous from audit_log_head for update;
    new.at := clock_timestamp();
    new.role := session_user;
    new.digest := audit_log_digest(new, previous);
    update audit_log_head set position = new.position, digest = new.digest;
    return new;
end $$;

do $$
declare
    entry audit_log;
    ledger_id uuid := gen_random_uuid();
    previous bytea := sha256(convert_to(ledger_id::text, 'UTF8'));
    number bigint := 0;
begin
    -- No schema that a caller could put its own tables in.
    execute format('alter function chain_audit_log() set search_path = pg_catalog, %I, pg_temp',
        current_schema());
    alter table audit_log disable trigger audit_log_append_only;
    for entry in select * from audit_log order by id loop
        number := number + 1;
        entry.position := number;
        previous := audit_log_digest(entry, previous);
        update audit_log set position = number, digest = previous where id = entry.id;
    end loop;
    alter table audit_log enable trigger audit_log_append_only;
    insert into audit_log_head (ledger, position, digest) values (ledger_id, number, previous);
end $$;

alter table audit_log
    alter column position set not null,
    alter column digest set not null,
    add constraint audit_log_position unique (position);
create trigger audit_log_chain before insert on audit_log
    for each row execute function chain_audit_log();
