#!/bin/sh
# Makes .env for compose.yaml of .env.example: each secret that is empty there becomes a random
# one, and `ada` an operator. Leaves a .env that is there as it is.
set -eu
cd "$(dirname "$0")/.."

[ ! -e .env ] || { echo "make-env: .env is there already; remove it first" >&2; exit 1; }
secret() { od -An -tx1 -N32 /dev/urandom | tr -d ' \n'; }

umask 077
while IFS= read -r line; do
    case $line in
        PAYSTREAM_OPERATOR_TOKENS=) line="${line}ada=$(secret)" ;;
        [A-Z]*=) line="$line$(secret)" ;;
    esac
    printf '%s\n' "$line"
done <.env.example >.env.new
mv .env.new .env
echo "make-env: .env has the tokens and passwords of this machine" >&2
