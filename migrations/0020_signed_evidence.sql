-- What senders signed, as proof that they sent a payment: the body as it came, what the
-- signature covers, and whose key it is. One row for each signed entry, whatever became of it.
create table payment_evidence (
    partition integer not null,
    sequence bigint not null,
    stream_id text not null,
    transaction_reference text collate "C" not null,
    -- standard-webhooks or rfc9421.
    scheme text not null,
    -- The key's id, or the fingerprint of a shared secret. Never the secret.
    key_id text not null,
    signature text not null,
    -- What was signed; for a webhook the body follows it.
    signature_base text not null,
    body text not null,
    received_at timestamptz not null,
    primary key (partition, sequence, stream_id)
);
create index payment_evidence_reference on payment_evidence (transaction_reference);
create trigger payment_evidence_append_only
    before update or delete or truncate on payment_evidence
    for each statement execute function refuse_change();
