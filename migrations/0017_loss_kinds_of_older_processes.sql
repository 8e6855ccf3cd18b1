-- A process of an earlier release that still runs writes no kinds: they follow from its
-- words, as in 0016.
create function paystream_loss_kinds() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' and new.kinds <> '{}' then
        return new;
    end if;
    if tg_op = 'UPDATE' and (new.kinds <> old.kinds
            or (new.reason, new.detail) = (old.reason, old.detail)) then
        return new;
    end if;
    select array_agg(distinct kind) into new.kinds from unnest(new.kinds || array[
        new.reason,
        case when new.detail like '%the number of partitions was changed to %' then 'resize' end,
        case when new.detail like '%another Redis took over that lacked these%' then 'lacking' end,
        case when new.detail like '%numbers from here on were given out twice%' then 'twice' end
    ]) kind where kind is not null;
    return new;
end $$;
create trigger loss_kinds before insert or update on sequence_jumps
    for each row execute function paystream_loss_kinds();

update sequence_jumps set kinds = array_remove(array[
    reason,
    case when detail like '%the number of partitions was changed to %' then 'resize' end,
    case when detail like '%another Redis took over that lacked these%' then 'lacking' end,
    case when detail like '%numbers from here on were given out twice%' then 'twice' end
], null) where kinds = '{}';
