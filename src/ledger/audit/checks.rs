//! The relations that an audit looks at, each with its checks: SQL expressions over one
//! of its rows, which say what is wrong with it, or null. Never reads a sum that the
//! ledger keeps, except to compare it with what was counted.

pub(super) struct Relation {
    /// Its rows, each with its `subject`: whose or what it is. Accounts and their rows
    /// are of customers from `$1` on and before `$2`. `{TOTALS}` stands for the totals of a
    /// partition: state, column, value.
    pub(super) rows: &'static str,
    /// What else is read of its rows.
    pub(super) columns: &'static str,
    /// The name of each check, stable for programs, and what is there and what should be;
    /// null where all is well.
    pub(super) checks: &'static [(&'static str, &'static str)],
}

/// In the order in which they are looked at.
pub(super) const RELATIONS: [Relation; 8] =
    [ACCOUNT, ROW, SEQUENCE, JUMP, PARTITION, HELD, USED, ARCHIVED];

/// A payment's content is what its digest stands for: compared in Rust, where digests
/// are made.
pub(super) const CONTENT_CHANGED: &str = "content_changed";

/// Every entry that has an outcome, for the relations that count them.
pub(super) const ENTRIES: &str = "with entry as (
     select partition, sequence, stream_id, outcome as kind,
         case outcome when 'applied' then applied_amount + excess_amount end as amount
     from kept_transactions
     union all
     select partition, sequence, stream_id,
         case state when 'redriven' then state else counted_as end, null
     from unsettled_outcomes where counted_as is not null)";

/// Accounts, each with what its statement comes to.
pub(super) const ACCOUNT: Relation = Relation {
    rows: "select customer_id as subject, customer_id, asset_value, total_paid, credit,
        payment_count, version, coalesce(applied, 0.00) as applied,
        coalesce(excess, 0.00) as excess, coalesce(payments, 0) as payments,
        coalesce(last_version, 0) as last_version
    from (select * from customer_accounts
        where customer_id >= $1 and customer_id < $2) a
    full join (select customer_id, sum(applied_amount) as applied,
            sum(excess_amount) as excess, max(version) as last_version,
            sum(payments)::bigint as payments
        from (select customer_id, applied_amount, excess_amount, account_version as version,
                (outcome = 'applied')::int::bigint as payments
            from kept_transactions
            where account_version is not null and customer_id >= $1 and customer_id < $2
            union all select customer_id, applied, excess, version, payments
            from opening_balances where customer_id >= $1 and customer_id < $2) r
        group by customer_id) s using (customer_id)",
    columns: ", customer_id, asset_value is not null as opened",
    checks: &[
        (
            "account_sum",
            "case when total_paid <> applied
             then format('total_paid is %s, should be %s', total_paid, applied) end",
        ),
        (
            "account_credit",
            "case when credit <> excess
             then format('credit is %s, should be %s', credit, excess) end",
        ),
        (
            "account_count",
            "case when payment_count <> payments
             then format('payment_count is %s, should be %s', payment_count, payments) end",
        ),
        (
            "account_version",
            "case when version <> last_version
             then format('version is %s, should be %s', version, last_version) end",
        ),
        (
            "account_overpaid",
            "case when total_paid > asset_value
             then format('total_paid is %s, asset_value %s', total_paid, asset_value) end",
        ),
        (
            "account_missing",
            "case when asset_value is null
             then format('has a statement up to version %s and no account', last_version) end",
        ),
    ],
};

/// Rows of statements, each with the row before it. What an operator settled later has
/// no place in the stream's order, nor has what was given out twice. A
/// resize moves customers, and sequences rise across it. Money that was assigned has the
/// digest of what was sent. Rows that are archived are one, `opening`, which is not looked at itself.
pub(super) const ROW: Relation = Relation {
    rows: "select customer_id || ' version ' || version as subject, *,
        case when version_before is null
            then (select asset_value from customer_accounts a
                where a.customer_id = r.customer_id)
            else balance_then end as balance_before,
        case when partition <> partition_before or sequence <= sequence_before
            then exists (select from sequence_jumps j
                where 'twice' = any(kinds)
                    and j.partition = r.partition
                    and sequence > after_sequence and sequence < resumes_at)
            end as given_out_twice,
        case when partition <> partition_before
            then exists (select from sequence_jumps
                where 'resize' = any(kinds)
                    and resumes_at > sequence_before and resumes_at <= sequence)
            end as moved_by_resize
    from (select *, lag(version) over statement as version_before,
            lag(balance_after) over statement as balance_then,
            lag(partition) over ordered as partition_before,
            lag(sequence) over ordered as sequence_before
        from (select p.customer_id, account_version as version, outcome,
                balance_after, applied_amount as applied, excess_amount as excess,
                p.amount, p.partition, p.sequence, payment_status,
                p.transaction_date, p.payload_digest,
                coalesce(s.customer_id, p.customer_id) as sent_for,
                s.customer_id is not null or d.id is not null as by_hand
            from kept_transactions p
            left join suspense s on s.assigned_to = p.customer_id
                and s.state = 'applied' and p.payment_status = 'COMPLETE'
                and (s.transaction_reference, s.partition, s.sequence)
                    = (p.transaction_reference, p.partition, p.sequence)
            left join dead_letters d on d.state = 'redriven'
                and (d.partition, d.stream_id) = (p.partition, p.stream_id)
            where account_version is not null
                and p.customer_id >= $1 and p.customer_id < $2
            union all
            select customer_id, version, 'opening', balance_after, 0, 0, null, null, null, null,
                null, null, customer_id, false
            from opening_balances where customer_id >= $1 and customer_id < $2) p
        window statement as (partition by customer_id order by version),
            ordered as (partition by customer_id, by_hand order by version)) r
    where outcome <> 'opening'",
    columns: ", customer_id, sent_for, payment_status, amount, transaction_date, payload_digest",
    checks: &[
        ("version_gap", "case when version <> coalesce(version_before, 0) + 1
             then format('follows version %s', coalesce(version_before, 0)) end"),
        ("balance_after", "case when balance_after is null or balance_after <> balance_before - applied
             then format('balance_after is %s, should be %s', coalesce(balance_after::text, 'missing'),
                 coalesce((balance_before - applied)::text, 'missing')) end"),
        ("amount_parts", "case when applied + excess <> case outcome when 'applied' then amount else 0 end
             or applied < 0 or excess < 0
             then format('applied %s and excess %s, should be %s together', applied, excess,
                 case outcome when 'applied' then amount else 0 end) end"),
        (CONTENT_CHANGED, "null::text"),
        ("order_broken", "case when sequence <= sequence_before and partition = partition_before
             and not by_hand and not given_out_twice
             then format('has sequence %s, the row before %s', sequence, sequence_before) end"),
        ("partition_mixed", "case when partition <> partition_before and not by_hand and not given_out_twice
             and not moved_by_resize
             then format('is of partition %s, the row before of %s', partition, partition_before) end"),
    ],
};

/// Sequences without exactly one outcome: holes and places. Entries that could not be
/// read so far have taken sequences that nobody knows; they explain a hole where they
/// stood, if they are as many. One that stood nowhere, as no stream says it, explains none.
pub(super) const SEQUENCE: Relation = Relation {
    rows: "with place as (
        select partition, sequence, min(id) as id,
            count(*) filter (where kind <> 'origin') as entries,
            count(*) filter (where kind not in ('origin', 'redriven')) as outcomes,
            min(kind) filter (where kind not in ('origin', 'redriven')) as low,
            max(kind) filter (where kind not in ('origin', 'redriven')) as high
        from (select partition, sequence, kind, case when partition in
                (select partition from dead_letters where sequence is null)
                and stream_id ~ '^[0-9]+-[0-9]+$' then stream_id end as id
            from entry where sequence is not null
            union all select partition, 0, 'origin', '0-0' from partition_owners) e
        group by partition, sequence),
    step as (
        select p.*, greatest(p.sequence, 0) + 1 as follows,
            coalesce(lead(p.sequence) over w, last_sequence + 1) as next,
            lead(id) over w as next_id
        from place p left join partition_owners using (partition)
        window w as (partition by p.partition order by p.sequence))
    select case when first = last
            then format('partition %s sequence %s', partition, first)
            else format('partition %s sequences %s to %s', partition, first, last)
            end as subject, first, last, missing, outcomes,
        coalesce(low, 'redriven') as one_kind,
        coalesce(high, 'redriven') as other_kind,
        coalesce(low <> high and 'dead_lettered' in (low, high), false) as buried,
        not missing and first > 0 and not jumped @> first
            and greatest(outcomes, entries - outcomes) > 1 as again
    from (select * from step where sequence < 1 or entries <> 1 or outcomes <> 1
        or next <> sequence + 1) s
    cross join lateral (select coalesce(
        range_agg(int8range(after_sequence + 1, resumes_at)), '{}') as jumped
        from sequence_jumps j where j.partition = s.partition) j
    cross join lateral (select coalesce(range_agg(one), '{}') as settled
        from archived_sequences a, unnest(a.sequences) one where a.partition = s.partition) a
    cross join lateral (select
        int8multirange(int8range(follows, greatest(follows, next))) - jumped - settled
        as holes) h
    cross join lateral (
        select sequence as first, sequence as last, false as missing
        where case when sequence < 1 then entries > 0
            else outcomes <> 1 or entries - outcomes > 1 end
        union all select lower(hole), upper(hole) - 1, true
        from unnest(holes) hole
        where (select sum(upper(one) - lower(one)) from unnest(holes) one)
            > (select count(*) from dead_letters d
                cross join lateral (select case when d.stream_id ~ '^[0-9]+-[0-9]+$'
                    then string_to_array(d.stream_id, '-')::numeric[] end as stood) d_at
                where d.sequence is null and d.partition = s.partition
                    and stood > string_to_array(s.id, '-')::numeric[]
                    and (next_id is null
                        or stood < string_to_array(next_id, '-')::numeric[]))) part
    order by partition, first",
    columns: "",
    checks: &[
        (
            "sequence_gap",
            "case when missing and first = last then 'has no outcome'
             when missing then format('%s sequences have no outcome', last - first + 1)
             when first < 1 then 'sequences begin with 1'
             when outcomes = 0 then 'was redriven and has no outcome' end",
        ),
        (
            "sequence_twice",
            "case when again and not buried then format('is %s and %s', one_kind, other_kind) end",
        ),
        (
            "outcome_twice",
            "case when again and buried then format('is %s and %s', one_kind, other_kind) end",
        ),
    ],
};

/// Jumps of sequences, with what was lost.
pub(super) const JUMP: Relation = Relation {
    rows: "select case when lost_first is null
            then format('partition %s after sequence %s', partition, after_sequence)
            when lost_first = lost_last
            then format('partition %s sequence %s', partition, lost_first)
            else format('partition %s sequences %s to %s', partition, lost_first,
                lost_last) end as subject, state, reason, detail
    from sequence_jumps order by partition, after_sequence",
    columns: "",
    checks: &[("sequence_lost", "case when state = 'open' and reason <> 'resize' then detail end")],
};

/// Partitions, each with what was counted in it.
pub(super) const PARTITION: Relation = Relation {
    rows: "with each as (
        select partition, case kind when 'redriven' then 'dead_lettered' else kind end as kind,
            count(*)::numeric as number, count(sequence) as sequences,
            max(sequence) as highest, coalesce(sum(amount), 0) as amount,
            count(*) filter (where sequence > coalesce(last_sequence, 0)
                and kind <> 'redriven') as beyond
        from entry left join partition_owners using (partition) group by 1, 2
        union all select partition, v.kind, v.number, v.number, null, v.amount, 0
        from archived_sequences cross join lateral (values ('applied', applied, amount),
            ('recorded', recorded, 0), ('rejected', rejected, 0)) v (kind, number, amount)),
    counted as (select partition, kind, sum(number) as number, sum(sequences)::bigint as sequences,
            max(highest) as highest, sum(amount) as amount, sum(beyond)::bigint as beyond
        from each group by 1, 2),
    kept as (
        select partition, last_sequence, kind, name, coalesce(number, 0) as number
        from partition_owners left join partition_totals using (partition)
        cross join lateral (values {TOTALS},
            ('amount', 'amount', amount)) v (kind, name, number))
    select format('partition %s', partition) as subject,
        coalesce(max(last_sequence), 0) as last_sequence,
        max(highest) as highest, coalesce(sum(beyond), 0) as beyond,
        coalesce(sum(sequences), 0)::bigint as sequences,
        coalesce(sum(c.amount), 0) as amount,
        string_agg(format('%s is %s, counted %s', coalesce(name, kind),
            coalesce(k.number, 0), coalesce(c.number, 0)), '; ')
            filter (where coalesce(k.number, 0) <> coalesce(c.number, 0))
            as differences
    from kept k full join (select * from counted
        union all select partition, 'amount', sum(amount), 0, null, 0, 0
        from counted group by partition) c using (partition, kind)
    group by partition order by partition",
    columns: ", sequences, amount",
    checks: &[
        (
            "sequence_beyond",
            "case when beyond > 0
             then format('%s sequences up to %s are beyond the cursor, which is %s', beyond,
                 highest, last_sequence) end",
        ),
        ("totals", "differences"),
    ],
};

/// Payments in suspense, with what their references moved already.
pub(super) const HELD: Relation = Relation {
    rows: "select transaction_reference as subject, s.state, p.outcome
    from suspense s left join (select * from kept_transactions
        where payment_status = 'COMPLETE') p using (transaction_reference)
    where s.state in ('held', 'refund_marked')",
    columns: "",
    checks: &[(
        "reference_twice",
        "case when outcome is not null
             then format('is %s in suspense and %s in processed_transactions', state, outcome) end",
    )],
};

/// Payments that are not archived and the keys that they have, where these do not fit together.
pub(super) const USED: Relation = Relation {
    rows: "select coalesce(p.transaction_reference, u.transaction_reference) as subject,
        u.transaction_reference is null as lacks_key, p.transaction_reference is null as lacks_payment
    from (select * from kept_transactions) p
    full join (select * from used_references
        where settled_at is not null and not exists (select from payment_months
            where detached_at is not null and settled_at >= starts_at and settled_at < ends_at)) u
        on (p.transaction_reference, p.payment_status, p.processed_at)
            = (u.transaction_reference, u.payment_status, u.settled_at)
            and (p.partition, p.sequence, p.payload_digest)
                = (u.partition, u.sequence, u.payload_digest)
    where p.transaction_reference is null or u.transaction_reference is null",
    columns: "",
    checks: &[(
        "reference_unused",
        "case when lacks_key then 'is settled, and used_references does not say so'
             when lacks_payment then 'is used by a payment that is not there' end",
    )],
};

/// What is said of months that are archived, and whether their sequences came again.
pub(super) const ARCHIVED: Relation = Relation {
    rows: "select format('partition %s of %s', a.partition, month) as subject, count(*) as again
    from archived_sequences a join entry e
        on e.partition = a.partition and a.sequences @> e.sequence
    where not exists (select from sequence_jumps j where 'twice' = any(kinds)
        and j.partition = a.partition and e.sequence > after_sequence and e.sequence < resumes_at)
    group by 1",
    columns: "",
    checks: &[("archived_twice", "format('%s of its sequences have another outcome', again)")],
};
