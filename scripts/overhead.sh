#!/bin/sh
# Measures what telemetry costs: the same load against paystream with telemetry
# off and with 1 %, 10 % and 100 % of the traces recorded, one after the other,
# several rounds, so that a machine whose speed drifts does so for all of them.
# Prints payments applied a second and processor time a payment of the paystream
# process alone: not that of Redis, PostgreSQL, the load or the receiver.
#
#   make release && cargo build --release --example otlp_receiver
#   ROUNDS=3 DURATION=10s scripts/overhead.sh
#
# Each run has private servers of its own, started empty, and is audited: this
# fails if a payment is lost or doubled. What the load cannot send in time it
# sends late, so that the rate is the machine's, not the load's.
set -eu
cd "$(dirname "$0")/.."

BINARIES=${BINARIES:-target/release}
ROUNDS=${ROUNDS:-3}
DURATION=${DURATION:-10s}
# More than can be done: arrivals are then sent as soon as they can be.
RATE=${RATE:-20000}
BATCHES=${BATCHES:-"1 500"}
CONNECTIONS=${CONNECTIONS:-64}
RATIOS=${RATIOS:-"off 0.01 0.1 1"}
PORT=${PORT:-18470}

GRPC=127.0.0.1:$((PORT + 1))
WORK=$(mktemp -d)
SERVER='' RECEIVER=''

say() { printf '%s\n' "overhead: $*" >&2; }
die() { say "$*"; exit 1; }

finish() {
    for pid in $SERVER $RECEIVER; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$WORK"
}
trap finish EXIT
trap 'exit 130' INT TERM

# A number out of the report of the load generator, by its name.
number() { sed -n "s/^ *\"$1\": \([0-9]*\),*\$/\1/p" "$WORK/report.json" | head -n 1; }

# Milliseconds of processor time that paystream itself used until all was applied.
processor() {
    awk '/"name": "paystream"/ { ours = 1 }
        ours && /"drained_ms"/ { gsub(/[^0-9]/, ""); print; exit }' "$WORK/report.json"
}

start() {
    rm -rf "$WORK/data"
    if [ "$1" = off ]; then
        unset OTEL_EXPORTER_OTLP_ENDPOINT PAYSTREAM_TRACE_RATIO
    else
        export OTEL_EXPORTER_OTLP_ENDPOINT="http://$GRPC" PAYSTREAM_TRACE_RATIO="$1"
    fi
    "$BINARIES/paystream" dev --directory "$WORK/data" --bind "127.0.0.1:$PORT" \
        >"$WORK/server.log" 2>&1 &
    SERVER=$!
    for _ in $(seq 300); do
        curl -fs "http://127.0.0.1:$PORT/readyz" >/dev/null 2>&1 && return
        kill -0 "$SERVER" 2>/dev/null || die "it did not start: $(tail -n 5 "$WORK/server.log")"
        sleep 0.2
    done
    die "it is not ready: $(tail -n 5 "$WORK/server.log")"
}

stop() {
    kill "$SERVER"
    wait "$SERVER" || die "it ended badly: $(tail -n 5 "$WORK/server.log")"
    SERVER=''
}

load() {
    "$BINARIES/paystream" load --url "http://127.0.0.1:$PORT" --connections "$CONNECTIONS" \
        --json "$@" >"$WORK/report.json" 2>"$WORK/load.log"
}

# batch, ratio: one run, one line of results.
measure() {
    start "$2"
    load --rate 500 --duration 2s --batch "$1" || die "warming up: $(cat "$WORK/load.log")"
    load --rate "$RATE" --duration "$DURATION" --batch "$1" --cpu-of "$SERVER" ||
        die "a payment was lost or doubled: $(cat "$WORK/load.log")"
    stop
    applied=$(number applied_per_second)
    echo "$1 $2 $applied $(processor) $(number accepted)" >>"$WORK/results"
    say "batch $1, $2: $applied/s"
}

[ -x "$BINARIES/paystream" ] || die "no $BINARIES/paystream: make release"
[ -x "$BINARIES/examples/otlp_receiver" ] ||
    die "no receiver: cargo build --release --example otlp_receiver"
unset OTEL_SDK_DISABLED OTEL_TRACES_SAMPLER OTEL_SERVICE_NAME OTEL_EXPORTER_OTLP_PROTOCOL
"$BINARIES/examples/otlp_receiver" --grpc "$GRPC" --metrics "127.0.0.1:$((PORT + 2))" \
    >"$WORK/receiver.log" 2>&1 &
RECEIVER=$!

for round in $(seq "$ROUNDS"); do
    say "round $round of $ROUNDS"
    for batch in $BATCHES; do
        for ratio in $RATIOS; do
            measure "$batch" "$ratio"
        done
    done
done
kill -0 "$RECEIVER" 2>/dev/null || die "the receiver has ended: $(cat "$WORK/receiver.log")"

curl -fs "http://127.0.0.1:$((PORT + 2))/metrics" |
    awk '/^otelcol_receiver_accepted_spans/ { spans += $NF }
        END { printf "spans received in all: %d\n", spans }'
# Medians: a machine that is shared has runs that say nothing about the program.
awk '
    function median(values, count,    at, back, held) {
        for (at = 2; at <= count; at++) {
            held = values[at]
            for (back = at - 1; back > 0 && values[back] > held; back--)
                values[back + 1] = values[back]
            values[back + 1] = held
        }
        return (values[int((count + 1) / 2)] + values[int(count / 2) + 1]) / 2
    }
    function column(table, key,    at) {
        delete picked
        for (at = 1; at <= runs[key]; at++) picked[at] = table[key, at]
        return median(picked, runs[key])
    }
    {
        key = $1 " " $2
        if (!(key in runs)) order[++count] = key
        runs[key]++; rate[key, runs[key]] = $3; cost[key, runs[key]] = $4 * 1000 / $5
    }
    END {
        printf "%6s %10s %5s %12s %8s %14s %8s\n", "batch", "traced", "runs", "applied/s",
            "to off", "us a payment", "to off"
        for (number = 1; number <= count; number++) {
            key = order[number]; split(key, parts, " "); off = parts[1] " off"
            applied = column(rate, key); spent = column(cost, key)
            printf "%6s %10s %5d %12.0f %8.3f %14.1f %8.3f\n", parts[1], parts[2], runs[key],
                applied, applied / column(rate, off), spent, spent / column(cost, off)
        }
    }' "$WORK/results"
