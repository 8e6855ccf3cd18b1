# Everything a person or the CI does here. `make` lists it.

CARGO ?= cargo
export CARGO

.DEFAULT_GOAL := help
.PHONY: help run test check supply-chain lines observe load audit compose-check storm storms storm-breakages bench bench-quick micro release install

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: install ## Start everything on this machine, with private Redis and PostgreSQL (ARGS="..." for `paystream dev`)
	$(CARGO) run --locked -- dev $(ARGS)

test: ## Run every test, against servers and a browser that the tests start themselves
	@./scripts/install.sh --browser --observe --front-door --pooler --openapi --kubernetes
	$(CARGO) test --locked --tests
	$(MAKE) storms
	$(MAKE) bench-quick

check: ## Format, lints, documentation, rooms and drift, licences and advisories (RELEASE=1 fails without the advisories)
	@./scripts/install.sh --check-tools --observe
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	$(CARGO) test --locked --test it -- drift:: rooms:: runbook:: observability:: --skip no_alert_can_change
	$(CARGO) deny --locked check --hide-inclusion-graph licenses bans sources
	@if $(CARGO) deny fetch db 2>/dev/null; then \
		$(CARGO) deny --locked check --disable-fetch --hide-inclusion-graph advisories; \
	elif [ -n "$(RELEASE)" ]; then \
		echo "check: FAILED, a release needs the advisories, and their database on github.com is not reachable" >&2; exit 1; \
	else \
		echo "check: passed, but known vulnerabilities were NOT checked: the database on github.com is not reachable"; \
	fi

supply-chain: ## For a release: refuse known vulnerabilities, and write what is built in (CycloneDX) to target/
	@./scripts/install.sh --check-tools --supply-chain
	$(CARGO) deny --locked check --hide-inclusion-graph advisories bans licenses sources
	$(CARGO) cyclonedx --format json --override-filename paystream.cdx
	mkdir -p target && mv paystream.cdx.json target/ && rm -f crates/*/paystream.cdx.json

lines: ## Print how long each room is, and its budget
	@./scripts/lines.sh

observe: ## Ask Prometheus every query of dashboards and alerts under load, then break things and see what is told
	@./scripts/install.sh --observe
	@./scripts/check-dashboards.sh
	$(CARGO) build --locked --bin paystream
	$(CARGO) run --locked --example observe -- $(ARGS)

load: install ## Send payments to a running paystream and measure (ARGS="--rate 2000 --duration 60s")
	$(CARGO) run --locked -- load $(ARGS)

audit: install ## Recompute every account of a running paystream (ARGS="--json")
	$(CARGO) run --locked -- audit $(ARGS)

compose-check: ## Bring up compose.yaml with stand-in images, pay, scale, restart each service (as root; not part of `make test`)
	@./scripts/compose-check.sh

storm: ## Break a private service in every way from a seed, and check that no payment suffered (ARGS="--seed 7 --minutes 5")
	@./scripts/install.sh --storm
	$(CARGO) build --locked --bin paystream --bin paystream-storm
	RUST_MIN_STACK=33554432 target/debug/paystream-storm $(ARGS)

storms: ## A minute of storm over each topology of Redis, with fresh seeds
	@./scripts/install.sh --storm
	$(CARGO) build --locked --bin paystream --bin paystream-storm
	for topology in single sentinel cluster; do \
		RUST_MIN_STACK=33554432 target/debug/paystream-storm --minutes 1 --topology $$topology || exit 1; \
	done

storm-breakages: ## Break each promise in a copy of the sources, and see that the storm notices (ARGS="no-fence")
	@./scripts/install.sh --storm
	@./scripts/storm-breakages.sh $(ARGS)

bench: release ## Measure rates, latency and cost, beside what this machine can do (ARGS="growth --rounds 1")
	$(CARGO) build --locked --release -p paystream-bench
	target/release/paystream-bench $(ARGS)

# That every measurement works; what it measures means nothing.
bench-quick: install
	$(CARGO) build --locked -p paystream -p paystream-bench
	RUST_MIN_STACK=33554432 target/debug/paystream-bench --quick --rounds 1 --folder target/bench/quick

micro: install ## Measure single steps of a payment, in memory (ARGS="decide --min-time 2")
	$(CARGO) bench --locked --bench micro -- $(ARGS)

release: install ## Build the optimised binary, target/release/paystream
	$(CARGO) build --locked --release

# Silent and instant when nothing is missing.
install:
	@./scripts/install.sh
