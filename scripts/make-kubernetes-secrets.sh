#!/bin/sh
# Makes the files of the secrets of deploy/kubernetes: for each role the URLs that it reaches the
# stores with, as its own user, and the tokens of gateways and operations.
#
#   scripts/make-kubernetes-secrets.sh FOLDER REDIS DATABASE
#   scripts/make-kubernetes-secrets.sh deploy/kubernetes/overlays/example/secrets \
#       rediss://redis.example:6379/ 'postgres://db.example:5432/paystream?sslmode=verify-full'
#
# The URLs are without a user. Passwords and tokens are those of .env, which
# scripts/make-env.sh makes. Leaves a folder that is there as it is.
set -eu
die() { echo "make-kubernetes-secrets: $*" >&2; exit 1; }

[ $# -eq 3 ] || die "say where to, and how Redis and PostgreSQL are reached: FOLDER REDIS DATABASE"
folder=$1 redis=$2 database=$3
for url in "$redis" "$database"; do
    case $url in
        *@*) die "a URL has a user already; each role gets its own" ;;
        redis://?* | rediss://?* | postgres://?* | postgresql://?*) ;;
        *) die "'$url' is no URL of Redis or PostgreSQL" ;;
    esac
done
env=$(dirname "$0")/../.env
[ -e "$env" ] || die "there is no .env: run scripts/make-env.sh"
[ ! -e "$folder" ] || die "$folder is there already; remove it first"

of_env() {
    value=$(sed -n "s/^$1=//p" "$env")
    [ -n "$value" ] || die "$1 is not in .env"
    printf %s "$value"
}
# as USER PASSWORD URL
as() { printf '%s' "${3%%://*}://$1:$2@${3#*://}"; }

umask 077
new=$folder.new
rm -rf "$new"
for role in migrate gateway worker operations; do
    # Redis knows no owner: what migrates is one of operations there.
    user=$role
    [ "$role" != migrate ] || user=operations
    redis_password=$(of_env "$(echo "$user" | tr a-z A-Z)_PASSWORD")
    database_password=$(of_env "$(echo "$role" | tr a-z A-Z)_PASSWORD")
    mkdir -p "$new/$role"
    as "$user" "$redis_password" "$redis" >"$new/$role/redis-url"
    as "paystream_$role" "$database_password" "$database" >"$new/$role/database-url"
done
of_env PAYSTREAM_API_TOKEN >"$new/gateway/api-token"
of_env PAYSTREAM_OPERATOR_TOKENS >"$new/operations/operator-tokens"
mv "$new" "$folder"
echo "make-kubernetes-secrets: $folder has the secrets of each role" >&2
