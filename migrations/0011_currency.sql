-- The one currency of a deployment, as an ISO 4217 code, and of each account.
-- What was kept before this release is in naira.
alter table topology add column currency text not null default 'NGN'
    check (currency ~ '^[A-Z]{3}$');
-- The default is for a gateway of the release before, while it is being replaced.
alter table customer_accounts add column currency text not null default 'NGN'
    check (currency ~ '^[A-Z]{3}$');
