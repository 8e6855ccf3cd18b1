-- A reference stands in one place: settled, in suspense, or parked. Each batch
-- looks before it decides, but cannot see what another is about to commit: two
-- customers' payments of one reference could be applied and held at once.

-- Whoever holds a payment first takes its key in processed_transactions until
-- its transaction ends, and so waits for whoever is settling that reference, and
-- is waited for. The claim is gone before anybody can read it.
create function claim_reference() returns trigger language plpgsql set search_path from current as $$
declare
    -- Each row of the parking has a status; money in suspense is COMPLETE.
    status text := coalesce(to_jsonb(new) ->> 'payment_status', 'COMPLETE');
begin
    insert into processed_transactions (transaction_reference, payment_status, customer_id, amount,
        outcome, reason, applied_amount, excess_amount, partition, sequence, stream_id, epoch,
        transaction_date, received_at, payload_digest)
    values (new.transaction_reference, status, new.customer_id, new.amount,
        case status when 'COMPLETE' then 'rejected' else 'recorded' end,
        case status when 'COMPLETE' then 'claimed' end, 0, 0, new.partition, new.sequence,
        'claim', new.epoch, new.transaction_date, new.received_at, new.payload_digest);
    delete from processed_transactions
    where transaction_reference = new.transaction_reference and payment_status = status;
    return new;
end $$;

create trigger suspense_claim before insert on suspense
    for each row execute function claim_reference();
create trigger parked_claim before insert on parked
    for each row execute function claim_reference();

-- What was committed while a claim was waited for is seen here: a function that
-- is volatile reads anew. The error is the one of a key that is taken, so that
-- the batch is decided again.
create function refuse_held_reference() returns trigger language plpgsql set search_path from current as $$
begin
    if exists (select from settled n join suspense s using (transaction_reference)
            where n.payment_status = 'COMPLETE' and s.state in ('held', 'refund_marked')
              and (s.partition, s.sequence) <> (n.partition, n.sequence))
        or exists (select from settled n join parked p using (transaction_reference, payment_status)
            where p.state = 'held' and (p.partition, p.sequence) <> (n.partition, n.sequence))
    then
        raise exception 'a payment of this reference is held' using errcode = 'unique_violation';
    end if;
    return null;
end $$;

create trigger processed_transactions_one_place after insert on processed_transactions
    referencing new table as settled
    for each statement execute function refuse_held_reference();

-- A claim is the only row that may go.
drop trigger processed_transactions_append_only on processed_transactions;
create trigger processed_transactions_append_only
    before update or truncate on processed_transactions
    for each statement execute function refuse_change();
create trigger processed_transactions_undeletable
    before delete on processed_transactions
    for each row when (old.stream_id <> 'claim') execute function refuse_change();
