-- One row per customer: what was financed, what was paid, what is left.
create table customer_accounts (
    customer_id text collate "C" primary key check (length(customer_id) between 1 and 64),
    asset_value numeric(18, 2) not null check (asset_value > 0),
    term_weeks integer not null check (term_weeks > 0),
    total_paid numeric(18, 2) not null default 0,
    -- What was paid beyond the asset's value; ours to return, never lost.
    credit numeric(18, 2) not null default 0 check (credit >= 0),
    outstanding_balance numeric(18, 2) generated always as (asset_value - total_paid) stored,
    payment_count bigint not null default 0,
    -- Rises by one with every row of the statement.
    version bigint not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check (total_paid between 0 and asset_value)
) with (fillfactor = 70);
