#!/bin/sh
# Starts redis-server as the user redis, as docker-entrypoint.sh of the image redis does.
set -eu

if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
fi
exec "$@"
