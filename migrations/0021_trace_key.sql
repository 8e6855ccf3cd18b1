-- The key under which traces name references: the same in every process, and not in what is
-- exported. Who has a trace and not the ledger learns no reference from it.
alter table topology add column trace_key bytea not null
    default sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
