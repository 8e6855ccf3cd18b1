#!/bin/bash
# Sets up PostgreSQL's data when there is none and starts the server as the user postgres: what
# docker-entrypoint.sh of the image postgres does, as far as compose.yaml relies on it.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    install -d -o postgres -g postgres -m 3775 /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # shellcheck disable=SC2086 # a list of words
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        ${POSTGRES_INITDB_ARGS:-}
    printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"

    # On a socket only: nobody outside shall find it before it is set up.
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    export PGHOST=/var/run/postgresql
    [ "$POSTGRES_DB" = postgres ] ||
        createdb --username "$POSTGRES_USER" --no-password --maintenance-db postgres "$POSTGRES_DB"
    # shellcheck disable=SC1090
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
            # What may not be executed is read, in a shell of its own.
            *.sh) if [ -x "$file" ]; then "$file"; else (. "$file"); fi ;;
            *.sql) psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$file" ;;
            *) echo "the stand-in ignores $file" >&2; exit 1 ;;
        esac
    done
    unset PGHOST
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
