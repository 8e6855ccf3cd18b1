-- The references that were used before 0024, while payments go on. A reference that an earlier
-- release has in two places belongs to the one that moved money, else to the one in suspense.
insert into used_references
    (transaction_reference, payment_status, payload_digest, partition, sequence, settled_at)
select transaction_reference, payment_status, payload_digest, partition, sequence, processed_at
from processed_transactions order by transaction_reference, payment_status
on conflict do nothing;

insert into used_references
    (transaction_reference, payment_status, payload_digest, partition, sequence)
select transaction_reference, 'COMPLETE', payload_digest, partition, sequence
from suspense where state in ('held', 'refund_marked')
on conflict do nothing;

insert into used_references
    (transaction_reference, payment_status, payload_digest, partition, sequence)
select transaction_reference, payment_status, payload_digest, partition, sequence
from parked where state = 'held'
on conflict do nothing;

-- Half of the table is new.
analyze used_references;
