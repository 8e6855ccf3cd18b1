#!/bin/sh
# Makes the roles that paystream logs in as; `paystream migrate` gives them their rights
# (docs/roles.md). The image runs this as the superuser when it sets up its data. It can be run
# again: after a password was changed, and once on data of a release before there were roles.
set -eu

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv migrate MIGRATE_PASSWORD
\getenv gateway GATEWAY_PASSWORD
\getenv worker WORKER_PASSWORD
\getenv operations OPERATIONS_PASSWORD
\getenv monitor MONITOR_PASSWORD

begin;
select format('create role %I login', 'paystream_' || name)
from unnest(array['migrate', 'gateway', 'worker', 'operations', 'auditor', 'monitor']) name
where not exists (select from pg_roles where rolname = 'paystream_' || name) \gexec

alter role paystream_migrate login password :'migrate';
alter role paystream_gateway login password :'gateway';
alter role paystream_worker login password :'worker';
alter role paystream_operations login password :'operations';
-- Nobody logs in as the auditor here: operators audit, too.
alter role paystream_auditor nologin;

-- Operators are told who holds a lock that payments wait for.
grant pg_monitor to paystream_operations;

-- The telemetry collector reads statistics and no table, and cannot take the connections of others.
alter role paystream_monitor login password :'monitor' connection limit 8;
alter role paystream_monitor set default_transaction_read_only = on;
alter role paystream_monitor set statement_timeout = '5s';
grant pg_monitor to paystream_monitor;

-- Roles are of the whole server; this database is for these alone.
revoke all on database :"DBNAME" from public;
grant connect on database :"DBNAME"
    to paystream_gateway, paystream_worker, paystream_operations, paystream_auditor, paystream_monitor;

-- The owner migrates; whoever serves owns nothing.
alter database :"DBNAME" owner to paystream_migrate;
alter schema public owner to paystream_migrate;
select format('alter table %s owner to paystream_migrate', oid::regclass)
from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v') \gexec
select format('alter routine %s owner to paystream_migrate', oid::regprocedure)
from pg_proc where pronamespace = 'public'::regnamespace \gexec
commit;
SQL
