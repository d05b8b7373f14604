# `make` alone lists what can be made. Everything that is fetched or built lands in one cache folder outside the clone.

export MESH_CACHE := $(abspath $(or $(MESH_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mesh))
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),$(MESH_CACHE)/target))
export MESH_BIN_DIR := $(CARGO_TARGET_DIR)/release
# A panic says where it happened; the frames of the runtime below it would bury what it says.
export RUST_BACKTRACE := 0
# ONNX Runtime, as it is published, would keep an id of the machine and events for its makers in the home folder.
export ORT_DISABLE_TELEMETRY := 1
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

PROGRAMS := mesh mesh-gateway mesh-scheduler mesh-ledger

# One profile and always the whole workspace: the same artefacts serve programs, tests and checks (see CONTRIBUTING.md).
ALL := --release --workspace --locked
E2E := $(patsubst e2e/tests/%.rs,--test %,$(wildcard e2e/tests/*.rs)) $(patsubst e2e/tests/%/main.rs,--test %,$(wildcard e2e/tests/*/main.rs))
WITH_DEPS := found=$$(scripts/deps.sh) && eval "$$found" &&

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help build programs demo deps nats-server postgres onnxruntime model test e2e check fmt clippy doc tidy deny format bench bench-embed bench-ledger bench-recovery bench-schedulers attack chaos chaos-ledger simulate fuzz sbom

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)$$/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

build: programs ## the programs, linked into bin/ together with a current nats-server
	@mkdir -p bin
	@server=$$(scripts/nats-server.sh) && ln -sf "$$server" bin/nats-server
	@for program in $(PROGRAMS); do ln -sf "$(MESH_BIN_DIR)/$$program" "bin/$$program" || exit 1; done
	@echo "built: $(addprefix bin/,$(PROGRAMS))"

programs:
	@scripts/toolchain.sh
	cargo build $(ALL) --bins

demo: build ## a story of about a minute: jobs, bids, a killed device, books that balance
	@$(WITH_DEPS) scripts/demo.sh

deps: ## all that is needed at run time: finds it, or installs or builds it, and prints where it is
	@scripts/deps.sh

nats-server postgres onnxruntime model:
	@scripts/$@.sh

test: check programs ## every check and every test (this is what CI runs)
	@$(WITH_DEPS) if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run $(ALL) --no-fail-fast && cargo test $(ALL) --doc; \
	else \
		cargo test $(ALL) --no-fail-fast; \
	fi

e2e: programs ## the tests on real servers alone
	@$(WITH_DEPS) cargo test $(ALL) --no-fail-fast $(E2E)

check: fmt clippy doc tidy deny ## format, lints, documentation, rules of the house, licences

fmt:
	@scripts/toolchain.sh check
	cargo fmt --check

clippy:
	@scripts/toolchain.sh check
	cargo clippy $(ALL) --all-targets -- -D warnings

doc:
	@scripts/toolchain.sh
	RUSTDOCFLAGS="-D warnings" cargo doc $(ALL) --no-deps

tidy:
	@scripts/toolchain.sh
	cargo test $(ALL) --test tidy

deny:
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; \
	else echo "cargo-deny is not installed; the tidy test has checked bans, licences and sources"; fi

format: ## formats the sources
	cargo fmt

bench: build ## jobs per second, latency and CPU time of a running stack
	@$(WITH_DEPS) scripts/bench.sh

bench-embed: build ## embeddings beside sentence-transformers, in the same run
	@$(WITH_DEPS) scripts/bench_embed.sh

bench-schedulers: build ## jobs per second with one scheduler and with two, side by side
	@$(WITH_DEPS) scripts/bench_schedulers.sh

bench-recovery: programs ## how soon work goes on after deaths and stops, with the real times: about five minutes
	@$(WITH_DEPS) export MESH_TEST_DIVISOR=1 MESH_TEST_STOPS=10 MESH_TEST_KILLS=3 && \
		cargo test $(ALL) --test survives -- --nocapture --test-threads 1 fifty_devices_die a_thousand_jobs_in_flight && \
		cargo test $(ALL) --test moves_on -- --nocapture

bench-ledger: programs ## the books: projection, replay, holds, beside their floors
	@$(WITH_DEPS) scripts/bench_ledger.sh

attack: programs ## what strangers, devices and stolen keys can do to a running network: a table
	@$(WITH_DEPS) cargo test $(ALL) --test attack -- --nocapture

chaos: programs ## a whole network under fire: make chaos SEED=1 SECONDS=120
	@$(WITH_DEPS) MESH_CHAOS_SEED=$(or $(SEED),1) MESH_CHAOS_SECONDS=$(or $(SECONDS),120) \
		cargo test $(ALL) --test chaos -- --nocapture what_was_accepted

chaos-ledger: programs ## the books under fire: make chaos-ledger SEED=1 KILLS=100
	@$(WITH_DEPS) MESH_CHAOS_SEED=$(or $(SEED),1) MESH_CHAOS_KILLS=$(or $(KILLS),100) \
		cargo test $(ALL) --test chaos -- --nocapture killed_again

fuzz: ## bytes that nobody would write, against every parser and the books: make fuzz SECONDS=600 [TARGET=books] (nightly Rust)
	@scripts/fuzz.sh $(or $(SECONDS),60) $(TARGET)

sbom: ## what Mesh is made of, as CycloneDX JSON: bin/mesh.cdx.json
	@mkdir -p bin
	@python3 scripts/sbom.py bin/mesh.cdx.json && echo "written: bin/mesh.cdx.json"

simulate: ## a whole network in memory while everything fails: make simulate SEEDS=20000, or SEED=1234 to see one run
	@scripts/toolchain.sh
	@SEED=$(SEED) SEEDS=$(SEEDS) FROM=$(FROM) BREAK=$(BREAK) cargo run $(ALL) --quiet --bin simulate
