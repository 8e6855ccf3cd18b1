-- Every row that tells what became of a payment, whatever table it is in: one place that a
-- further outcome with a table of its own is added to. A query of a view locks each of its
-- tables, hence three views: settling and look-ups do not wait for tables they need not read.
--
-- state: what the row tells. was_suspense and was_parked: the payment went on from there.
-- found_as: what a look-up of the payment answers by this row; null where another row answers.
-- counted_as: the state whose total counts the row; null where another row is counted.
-- takes_reference: whether its reference, under its status, is used by it.
create view taken_payments as
select transaction_reference, payment_status, outcome as state, outcome as found_as,
    outcome as counted_as, true as takes_reference, customer_id, amount, null::text as code, reason,
    applied_amount, excess_amount, balance_after, account_version, partition, sequence, stream_id,
    epoch, transaction_date, received_at, processed_at as at, payload_digest, trace_id
from processed_transactions
union all
select transaction_reference, 'COMPLETE'::text collate "C",
    case state when 'held' then 'suspense' else 'was_suspense' end collate "C",
    case state when 'held' then 'suspense' when 'refund_marked' then state end collate "C",
    case when state in ('held', 'refund_marked') then 'suspense' end collate "C",
    state <> 'conflict', customer_id, amount, null, null, null, null, null, null, partition,
    sequence, stream_id, epoch, transaction_date, received_at, held_at, payload_digest, trace_id
from suspense
union all
select transaction_reference, payment_status,
    case state when 'held' then 'parked' else 'was_parked' end collate "C",
    case state when 'held' then 'parked' end collate "C",
    case state when 'held' then 'parked' end collate "C",
    state = 'held', customer_id, amount, null, null, null, null, null, null, partition, sequence,
    stream_id, epoch, transaction_date, received_at, parked_at, payload_digest, trace_id
from parked;

create view found_payments as
select * from taken_payments
union all
-- The entry of a dead letter is its own, as far as it could be read.
select transaction_reference collate "C", case when code <> 'entry_unreadable'
        then (entry ->> 'payment')::jsonb ->> 'payment_status' end collate "C",
    case state when 'dead' then 'dead_lettered' else state end collate "C",
    case state when 'dead' then 'dead_lettered' when 'discarded' then state end collate "C",
    'dead_lettered'::text collate "C", false, customer_id, amount, code, reason, null, null, null, null,
    partition, sequence, stream_id, epoch,
    case when code <> 'entry_unreadable'
        then ((entry ->> 'payment')::jsonb ->> 'transaction_date')::timestamptz end,
    case when code <> 'entry_unreadable'
        then to_timestamp((entry ->> 'received_at')::bigint / 1000.0) end,
    dead_at, null, trace_id
from dead_letters;

create view payment_outcomes as
select * from found_payments
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
