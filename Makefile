# Everything a developer, a tester or an operator of a local stack does. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
STACK := $(TARGET_DIR)/debug/stack
NODE_MODULES := contracts/node_modules/.package-lock.json

.PHONY: help demo up dev run-campaign run-blockchain stop status monitor logs audit build test chaos simulate rebuild-million bench lint clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## Start everything, grant tokens to 100 participants, compare ledger and chain, stop everything
	@$(STACK) demo

up: build ## Start everything on ports 8080, 8081, 8681 and 8545, and leave it running
	@$(STACK) up

dev: build ## Start what the services need (emulator, chain, contracts), and leave it running
	@$(STACK) dev

run-campaign: ## Run the campaign service in this terminal, on what `make dev` has started
	@$(DEV_ENVIRONMENT) \
	export LISTEN_ADDRESS="$${LISTEN_ADDRESS:-127.0.0.1:8080}" DATABASE_URL="$${DATABASE_URL:-sqlite://target/run/campaign.db}"; \
	exec cargo run --locked --bin campaign

run-blockchain: ## Run the blockchain service in this terminal, on what `make dev` has started
	@$(DEV_ENVIRONMENT) \
	export LISTEN_ADDRESS="$${LISTEN_ADDRESS:-127.0.0.1:8081}" DATABASE_URL="$${DATABASE_URL:-sqlite://target/run/blockchain.db}"; \
	exec cargo run --locked --bin blockchain

stop: $(STACK) ## Stop what `make up` or `make dev` has started
	@$(STACK) stop

status: $(STACK) ## Say what runs, how it is, and what it has done
	@$(STACK) status

monitor: $(STACK) ## Watch queue and counters until Ctrl-C
	@$(STACK) monitor

logs: $(STACK) ## Follow the logs of both services until Ctrl-C
	@$(STACK) logs

audit: ## Compare ledger and chain of what `make up` has started; AUDIT="--json" and the like for more
	@$(DEV_ENVIRONMENT) \
	export DATABASE_URL="$${DATABASE_URL:-sqlite://target/run/blockchain.db}" RUST_LOG=$${RUST_LOG-warn}; \
	exec cargo run --locked --quiet --bin blockchain -- audit $(AUDIT)

build: $(NODE_MODULES) ## Build everything, and install the contracts' npm packages
	@cargo build --locked --workspace

test: ## Check and test everything, installing what is missing
	@testkit/scripts/setup.sh
	@testkit/scripts/test.sh

chaos: build ## Cause faults under load for ten minutes, and hold what was promised against the chain (docs/RELIABILITY.md)
	@cargo build --locked --workspace --features testkit/failpoints --bin campaign-failpoints --bin blockchain-failpoints
	@$(STACK) chaos

simulate: ## Run both services over a simulated world, SIM_SEEDS times; SIM_SEED=7 tells one world (docs/RELIABILITY.md)
	@cargo build --locked --release --workspace --features simulation/failpoints --bin simulate
	@$(TARGET_DIR)/release/simulate

rebuild-million: ## Rebuild what follows from a million events, on both databases, and hold it to be exact (docs/OPERATIONS.md)
	@cargo build --locked --release --workspace --bin campaign --bin stack
	@$(TARGET_DIR)/release/stack rebuild

bench: $(NODE_MODULES) ## Measure everything in a quarter of an hour; BENCH=soak and the like for one scenario (README.md)
	@cargo build --locked --release --workspace --bin bench --bin campaign --bin blockchain
	@$(TARGET_DIR)/release/bench $(BENCH)

lint: ## Check format, lints and documentation
	@cargo fmt --all -- --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

clean: ## Stop what runs, and remove all that was built or installed here
	@if [ -x $(STACK) ]; then $(STACK) stop; fi
	@cargo clean
	@rm -rf contracts/node_modules testkit/asyncapi/node_modules contracts/out contracts/cache

# npm writes this file last, so it is older than the lock file exactly when the packages are missing or out of date.
%/node_modules/.package-lock.json: %/package-lock.json
	@command -v npm >/dev/null || { echo 'npm is missing: install Node.js 20 or newer' >&2; exit 1; }
	@cd $* && npm ci --no-audit --no-fund
	@touch $@

$(STACK):
	@cargo build --locked -p testkit

# The environment of a service in development: what the environment says, else .env, else what `make dev` has started.
# The key is that of anvil's account 1, and public; the addresses follow from the deployer's (account 0's) first nonces.
define DEV_ENVIRONMENT
	environment=$$(export -p); \
	if [ -f .env ]; then set -a; . ./.env; set +a; eval "$$environment"; fi; \
	export PUBSUB_EMULATOR_HOST="$${PUBSUB_EMULATOR_HOST:-localhost:8681}" \
		GCP_PROJECT_ID="$${GCP_PROJECT_ID:-test-project}" \
		RPC_URL="$${RPC_URL:-http://localhost:8545}" \
		WS_URL="$${WS_URL:-ws://localhost:8545}" \
		CHAIN_ID="$${CHAIN_ID:-31337}" \
		SIGNER_KEY="$${SIGNER_KEY:-0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d}" \
		DISTRIBUTOR_ADDRESS="$${DISTRIBUTOR_ADDRESS:-0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512}" \
		WALLET_FACTORY_ADDRESS="$${WALLET_FACTORY_ADDRESS:-0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0}" \
		CAMPAIGN_URL="$${CAMPAIGN_URL:-http://localhost:8080}"; \
	mkdir -p target/run;
endef
