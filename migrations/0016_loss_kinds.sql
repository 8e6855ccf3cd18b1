-- What a row tells, as kinds: several findings may meet in one row, and each is
-- recognised by its kind, never by the words of the sentence beside it.
alter table sequence_jumps add column kinds text[] not null default '{}'
    check (kinds <@ array['resize', 'state_lost', 'entries_missing', 'ledger_lost', 'takeover',
        'lacking', 'twice']);
update sequence_jumps set kinds = array[reason]
    || case when detail like '%the number of partitions was changed to %' and reason <> 'resize'
        then array['resize'] else '{}' end
    || case when detail like '%another Redis took over that lacked these%'
        then array['lacking'] else '{}' end
    || case when detail like '%numbers from here on were given out twice%'
        then array['twice'] else '{}' end;
