-- takeover: another Redis answers since, a promoted replica or a copy that was
-- put back.
alter table sequence_jumps drop constraint sequence_jumps_reason_check;
alter table sequence_jumps add constraint sequence_jumps_reason_check
    check (reason in ('resize', 'state_lost', 'entries_missing', 'ledger_lost', 'takeover'));
