#!/usr/bin/env bash
# Brings up the unmodified compose.yaml with a container engine of its own and with stand-ins for
# every image (scripts/compose-check/Dockerfile), sends payments through the front door, scales,
# restarts each service, stops and starts all of it again, and takes it down. Exits with 0 when all
# of that holds, and else with the logs of what failed. Never uses or changes another engine of this
# machine, its firewall or its .env.
#
# Needs root on Linux, and the network for packages and crates. It is not part of `make test`. What a
# registry serves is not tried: stand-ins have Debian's packages, or a small program of ours for
# Grafana, Tempo and the collector; without rules of a firewall, internal networks are not closed.
#
# Usage: scripts/compose-check.sh
# Ports are those of compose.yaml; HTTP_ADDRESS and the others of .env.example move them. What it
# makes is in target/compose-check, layers of images included: the next run takes minutes less.
set -euo pipefail
cd "$(dirname "$0")/.."

# Where stand-ins come from: the release whose versions are nearest to those of compose.yaml.
SUITE=forky
MIRROR=http://deb.debian.org/debian
HEALTHY_WITHIN=300
TRUE_WITHIN=180
folder=$PWD/target/compose-check
source=$PWD
started=$SECONDS

export DOCKER_HOST=unix://$folder/docker.sock DOCKER_BUILDKIT=0
export COMPOSE_PROJECT_NAME=paystream-check COMPOSE_HTTP_TIMEOUT=300
# Builds in minutes; traces are few otherwise, and the check looks for them.
export BUILD_PROFILE=dev PAYSTREAM_TRACE_RATIO=1
unset COMPOSE_FILE DOCKER_CONTEXT DOCKER_TLS_VERIFY

die() { echo "compose-check: $*" >&2; exit 1; }

[ "$(uname)" = Linux ] || die "no container engine can be started here: it needs Linux"
[ "$(id -u)" -eq 0 ] || die "no container engine can be started here: it needs root"
scripts/install.sh --compose

mkdir -p "$folder"
cd "$folder"
# One run at a time; the lock ends with the process.
exec 9>lock
flock --nonblock 9 || die "another run is under way in $folder"
rm -rf tree context logs payments
mkdir tree context logs
exec 3>&1 >logs/check.log 2>&1

say() { echo "compose-check: $*" >&3; }

# --- steps -------------------------------------------------------------------------------------

current='' outcomes='' begun=0 outcome=''
# step <title>: the one before held.
step() {
    passed
    current=$1 begun=$SECONDS outcome=''
    printf 'compose-check: %s ...\n' "$1" >&3
    printf '\n== %s\n' "$1"
}
passed() {
    [ -n "$current" ] || return 0
    record ok
    [ -z "$outcome" ] || say "  $outcome"
    current=''
}
record() { outcomes+="$(printf '%-6s %4d s  %s' "$1" $((SECONDS - begun)) "$current")"$'\n'; }
reason=''
# wrong <sentence>: ends the run.
wrong() { reason=$*; exit 1; }

sender='' engine=''
finish() {
    status=$?
    trap - EXIT
    # What ends now must not end this.
    set +e
    if [ $status -ne 0 ] && [ -n "$current" ]; then
        record FAILED
        tail -n 12 logs/check.log | sed 's/^/    /' >&3
        show_ailing
        say "FAILED: $current: ${reason:-see above}"
    fi
    [ -z "$sender" ] || kill "$sender"
    if [ -n "$engine" ]; then
        for name in $(docker ps -a --format '{{.Names}}'); do
            docker logs "$name" >"logs/$name.log" 2>&1
        done
        clear_engine
        kill "$engine" && wait "$engine"
        # A mount that it leaves behind.
        umount run/netns/default
    fi
    printf '\n%s\n' "$outcomes" >&3
    if [ $status -eq 0 ]; then
        say "all of it holds, with stand-in images, in $((SECONDS - started)) s"
    else
        say "see $folder/logs"
    fi
    exit $status
}
trap finish EXIT
trap 'reason=interrupted; exit 130' INT
trap 'reason=terminated; exit 143' TERM HUP

# Logs of containers that are not as they should be.
show_ailing() {
    [ -n "$engine" ] || return 0
    for name in $(ailing | cut -d' ' -f1); do
        say "the last that $name wrote:"
        docker logs --tail 40 "$name" 2>&1 | sed 's/^/    /' >&3
    done
}

# --- the engine --------------------------------------------------------------------------------

compose() { (cd "$folder/tree" && docker-compose --ansi never "$@" </dev/null 3>&- 9>&-); }

# Images and layers stay. The engine is ours alone, so nothing of it is anybody else's.
clear_engine() {
    docker ps -aq | xargs -r docker rm --force --volumes
    docker volume ls -q | xargs -r docker volume rm --force
    docker network prune --force
}

start_engine() {
    # Without a bridge, forwarding and rules of a firewall: nothing here needs them, and this machine
    # keeps its own.
    # In a session of its own, which Ctrl-C does not reach: containers go before it does.
    setsid dockerd --host "$DOCKER_HOST" --data-root "$folder/engine" --exec-root "$folder/run" \
        --pidfile "$folder/dockerd.pid" --bridge=none --ip-forward=false --iptables=false \
        --ip6tables=false >logs/dockerd.log 2>&1 3>&- 9>&- &
    engine=$!
    for _ in $(seq 300); do
        docker version >/dev/null 2>&1 && return 0
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.2
    done
    wrong "no container engine can be had here: $(tail -n 1 logs/dockerd.log)"
}

# --- images ------------------------------------------------------------------------------------

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# bootstrap <suite> <image>: Debian, as small as it comes.
bootstrap() {
    has_image "$2" && return 0
    rm -rf root
    debootstrap --variant=minbase "$1" root "$MIRROR" sid
    tar --directory root --exclude './var/cache/apt/archives/*.deb' --create . |
        docker import --change 'CMD ["bash"]' - "$2"
    rm -rf root
}

# The toolchain that rust-toolchain.toml names, without its documentation.
import_toolchain() {
    has_image "stand-in/toolchain:$1" && return 0
    tar --create --dereference --exclude ./share --exclude ./lib/rustlib/src \
        --directory "$(cd "$source" && rustc --print sysroot)" . \
        --directory /etc/ssl/certs ca-certificates.crt |
        docker import - stand-in/toolchain
    docker tag stand-in/toolchain "stand-in/toolchain:$1"
}

# stand_in <image>: makes and tags it.
stand_in() {
    local image=$1 repository=${1%%:*}
    local stage=${repository//\//-}
    if [ "$repository" = debian ]; then
        local suite=${image#*:}
        bootstrap "${suite%-slim}" "$image"
        say "  $image: made with debootstrap"
        return
    fi
    grep -q " AS $stage\$" context/Dockerfile ||
        wrong "there is no stand-in for $image: scripts/compose-check/Dockerfile has no stage $stage"
    docker build --network host --target "$stage" --tag "$image" context
    say "  $image: $(docker run --rm --network none --entrypoint cat "$image" /stand-in)"
}

# --- containers --------------------------------------------------------------------------------

# Names of containers that are not as they should be, each with what it is instead. A container that
# ended with 0 and is not to be restarted is: migrate.
ailing() {
    docker ps -aq --filter label=com.docker.compose.oneoff=False | xargs -r docker inspect --format '
        {{- .Name}} {{.State.Status}}
        {{- if .State.Health}} {{.State.Health.Status}}{{end}}
        {{- if eq .HostConfig.RestartPolicy.Name "no"}} once-{{.State.ExitCode}}{{end}}
        {{- if .State.OOMKilled}} out-of-memory{{end}}
        {{- if .RestartCount}} restarted-{{.RestartCount}}-times{{end}}' |
        sed 's|^/||' |
        grep -v -E '^[^ ]+ (running( healthy)?|exited once-0)$' || true
}

# Nobody helps a container that died: its restart policy would hide it.
no_restarts() {
    ! ailing | grep -E 'restarted|out-of-memory' || wrong "a container was restarted by the engine"
}

wait_healthy() {
    local since=$SECONDS
    while [ -n "$(ailing)" ]; do
        no_restarts
        [ $((SECONDS - since)) -lt $HEALTHY_WITHIN ] ||
            wrong "not healthy within $HEALTHY_WITHIN s: $(ailing | tr '\n' ';')"
        sleep 1
    done
}

# wait_true <what> <command>: until it holds.
wait_true() {
    local what=$1 since=$SECONDS
    shift
    until "$@"; do
        [ $((SECONDS - since)) -lt $TRUE_WITHIN ] || wrong "not within $TRUE_WITHIN s: $what"
        sleep 1
    done
}

running() { docker ps -q --filter "label=com.docker.compose.service=$1" | wc -l; }
on() { echo "http://$(compose port "$1" "$2")"; }
token() { sed -n 's/^PAYSTREAM_API_TOKEN=//p' tree/.env; }
settled() { python3 context/payments.py settled "$front" "$(token)" payments; }

# The curl commands that the README shows, for the front door: with a token.
readme() {
    awk '/^```/ { shown = "" } shown { print } /^```sh/ { getline; shown = /^curl/; if (shown) print }' \
        tree/README.md |
        sed -e "s|http://localhost:8081|$front|" \
            -e "s|^curl |curl --silent --show-error --fail-with-body -H 'Authorization: Bearer $(token)' |"
}

# prometheus <query> [<time>]: the answer, a line for each series: its name, if any, and its value.
prometheus() {
    curl --silent --show-error --fail --get --data-urlencode "query=$1" \
        ${2:+--data-urlencode "time=$2"} "$(on prometheus 9090)/api/v1/query" |
        python3 -c 'import json, sys
for one in json.load(sys.stdin)["data"]["result"]:
    print(*one["metric"].values(), one["value"][1])'
}
# none <query>: it answers, with no series. counts <query>: all of it is above zero.
none() { [ -z "$(prometheus "$1" || echo failed)" ]; }
counts() { [ "$(prometheus "min($1) > bool 0")" = 1 ]; }

# The address of a service's container in a network, which this machine reaches.
address() {
    docker inspect --format "{{(index .NetworkSettings.Networks \"${COMPOSE_PROJECT_NAME}_$2\").IPAddress}}" \
        "$(compose ps -q "$1")"
}
scraped() { [ "$(prometheus 'count(up)')" = "$(prometheus 'sum(up)')" ]; }
arrives() { [ "$(prometheus "count(target_info{job=~\".*-$1\"})")" -ge "$(running "$1")" ]; }
data_sources() {
    curl --silent --show-error --fail "$(on grafana 3000)/stand-in" | tee /dev/stderr |
        python3 -c 'import json, sys; sys.exit(not all(json.load(sys.stdin)["reached"].values()))'
}
rules() {
    curl --silent --fail "$(on prometheus 9090)/api/v1/rules" | python3 -c 'import json, sys
rules = [rule for group in json.load(sys.stdin)["data"]["groups"] for rule in group["rules"]]
print(len(rules), *{rule["lastError"] for rule in rules if rule.get("lastError")})'
}
# Names of the alerts that fire.
alerts() { prometheus 'count by (alertname) (ALERTS{alertstate="firing"})' | cut -d' ' -f1 | paste -sd' '; }

# --- what is checked ---------------------------------------------------------------------------

step "start a private container engine"
start_engine
clear_engine
outcome="$(dockerd --version); $(docker-compose --version | head -n 1)"

step "copy the tracked files, make .env"
(cd "$source" && git ls-files -z | tar --create --null --files-from=-) | tar --extract --directory tree
tree/scripts/make-env.sh
cmp "$source/compose.yaml" tree/compose.yaml
cp -r "$source"/scripts/compose-check/. context
COMPOSE_PROFILES=$(compose config --profiles 2>/dev/null | paste -sd,)
export COMPOSE_PROFILES
compose config >config.yaml
outcome="profiles: ${COMPOSE_PROFILES:-none}; services: $(compose config --services | paste -sd' ')"

step "find every port free"
python3 - config.yaml <<'PYTHON' || wrong "stop what listens there, or set HTTP_ADDRESS, OPERATIONS_ADDRESS, GRAFANA_ADDRESS or PROMETHEUS_ADDRESS"
import re, socket, sys
taken = 0
for host, port in re.findall(r"- ([\d.]+):(\d+):\d+/tcp", open(sys.argv[1]).read()):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, int(port)))
        except OSError as error:
            print(f"{host}:{port}: {error.strerror}")
            taken += 1
sys.exit(taken > 0)
PYTHON

step "build what names metrics as the collector does"
(cd "$source" && "${CARGO:-cargo}" build --quiet --locked --example otlp_receiver)
cp "$source/target/debug/examples/otlp_receiver" context

step "make stand-in images"
wanted_rust=$(sed -n 's/^FROM rust:\([0-9.]*\)-.*/\1/p' tree/Dockerfile)
(cd "$source" && rustc --version) | grep -qF "rustc $wanted_rust " ||
    wrong "the Dockerfile wants Rust $wanted_rust, this machine has $(cd "$source" && rustc --version)"
bootstrap $SUITE "stand-in/debian:$SUITE"
import_toolchain "$wanted_rust"
images=$(awk '/^FROM / { print $2 }' tree/Dockerfile | sort
    awk '$1 == "image:" && $2 !~ /^paystream:/ { print $2 }' config.yaml | sort -u)
for image in $images; do stand_in "$image"; done

step "build the image of paystream, as the Dockerfile says"
# Beforehand, for the network: compose finds each layer then.
docker build --network host --build-arg PROFILE=$BUILD_PROFILE --tag paystream:latest tree

step "docker-compose up --build"
docker events --filter event=die 3>&- 9>&- \
    --format '{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}' >died.txt &
compose up --build --detach
wait_healthy
front=$(on nginx 80)
outcome="$(docker ps -q | wc -l) containers, healthy where they say"

step "open accounts: docker-compose run --rm migrate seed --count 500"
compose run --rm -T migrate seed --count 500

step "send the payment of the README to $front"
readme >readme.sh
is_applied() { sh -eu readme.sh | tr -d ' ' | grep '"status":"applied"'; }
wait_true "the README's payment is applied" is_applied

step "docker-compose up --scale gateway=2 --scale worker=3"
compose up --detach --scale gateway=2 --scale worker=3
wait_healthy
[ "$(running gateway) $(running worker)" = "2 3" ] || wrong "there are not 2 gateways and 3 workers"
# The name of a worker begins with its container's.
owners() {
    compose exec -T operations paystream partitions --json | python3 -c 'import json, sys
print("\n".join(sorted({(one["owner"] or "nobody")[:12] for one in json.load(sys.stdin)["partitions"]})))'
}
all_own() {
    owners >owners.txt
    docker ps -q --filter label=com.docker.compose.service=worker | sort | diff owners.txt -
}
wait_true "each worker owns partitions" all_own

step "telemetry: everything is scraped, processes and spans arrive, data sources answer"
wait_true "Prometheus reaches every target" scraped
for service in gateway worker operations; do
    wait_true "metrics of each $service arrive" arrives "$service"
done
wait_true "spans arrive at the collector" counts 'sum(otelcol_receiver_accepted_spans)'
wait_true "the collector hands spans on to Tempo" counts 'stand_in_requests_total{job="tempo"}'
wait_true "Prometheus takes what Tempo writes" counts stand_in_remote_write
collector_http() {
    curl --silent --show-error --fail --request POST --header 'Content-Type: application/x-protobuf' \
        "http://$(address otel-collector telemetry):4318/v1/traces"
}
wait_true "the collector takes OTLP over HTTP" collector_http
wait_true "the collector reaches hosts and stores, as far as it asks them" none 'stand_in_collected == 0'
[ "$(running alertmanager)" -eq 0 ] ||
    wait_true "Prometheus finds Alertmanager" counts prometheus_notifications_alertmanagers_discovered
wait_true "each data source of Grafana answers" data_sources
outcome="$(prometheus 'count(up)') targets, $(prometheus 'count(target_info)') processes, $(prometheus 'sum(otelcol_receiver_accepted_spans)') spans, $(rules) rules, alerts that fire: $(alerts)"

step "restart each service while payments are sent"
python3 context/payments.py send "$front" "$(token)" payments >sent.txt 3>&- 9>&- &
sender=$!
for service in $(compose config --services); do
    [ "$(running "$service")" -gt 0 ] || continue
    no_restarts
    compose restart "$service"
    wait_healthy
    kill -0 $sender || wrong "payments could not be sent: $(cat sent.txt)"
    say "  $service"
done
kill $sender
wait $sender
sender=''
outcome=$(cat sent.txt)

step "every payment that was accepted is applied once"
outcome=$(settled)

step "paystream audit and paystream doctor find nothing"
compose exec -T operations paystream audit
well() { compose exec -T operations paystream doctor; }
wait_true "the doctor finds no warning" well
outcome=$(compose exec -T operations paystream doctor | tail -n 1)

step "down and up again: volumes keep the data"
before=$(date +%s)
docker volume ls -q >volumes.txt
# The stand-ins of Grafana and Tempo write a line to their volumes at each start.
starts() {
    compose exec -T grafana cat /var/lib/grafana/stand-in | wc -l
    compose exec -T tempo cat /var/tempo/wal/stand-in | wc -l
}
starts=$(starts)
no_restarts
compose down
[ -z "$(docker ps -aq)" ] || wrong "containers are left after down"
compose up --detach
wait_healthy
docker volume ls -q | diff volumes.txt -
front=$(on nginx 80)
wait_true "the README's payment is found" is_applied
outcome=$(settled)
compose exec -T operations paystream audit
wait_true "the doctor finds no warning" well
[ -n "$(prometheus 'count(up)' "$before")" ] || wrong "Prometheus has nothing of before"
[ "$(starts)" = "$(awk '{ print $1 + 1 }' <<<"$starts")" ] || wrong "Grafana or Tempo has another volume"

step "down with volumes"
compose down --volumes
left=$(docker ps -aq; docker volume ls -q; docker network ls --filter type=custom -q)
[ -z "$left" ] || wrong "left after down: $left"
killed=$(grep -v ' 0$' died.txt | paste -sd';' || true)
[ -z "$killed" ] || wrong "not ended with 0 when they were stopped: $killed"
outcome="no container is left, none had to be killed"
passed
