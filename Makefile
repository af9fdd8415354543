# Every command of the project. `make help` lists them; `make demo` and `make test` each work on a fresh clone.
# Needed on the machine: cargo and rustc (see rust-version in Cargo.toml), gcc, make, python3 with pip or venv; for `make test`,
# `make cluster` and `make manifests` Go 1.25 or newer.

.DEFAULT_GOAL := help
SHELL := /bin/sh

CARGO   ?= cargo
LOCKED  := --locked
TARGET  := $(or $(CARGO_TARGET_DIR),target)
NEXTEST := .tools/cargo-nextest nextest run $(LOCKED)
# See .config/nextest.toml.
export NEXTEST_TEST_THREADS ?= $(shell expr 3 \* $$(nproc) + 2)
# The second crypto provider: what differs between the two, in a target folder of its own, so that neither build evicts the other.
AWS     := --no-default-features --features aws-lc-rs --target-dir $(TARGET)/aws-lc-rs \
	-p ensign-agent -p ensign-daemon -p ensign-pki -p ensign-ra
# Cargo builds tokio and all above it once more for a command that selects no test, example or bench, because features
# of dev-dependencies do not count there. We have no examples: naming them makes both graphs the same.
ONE_GRAPH := --examples
# What tests may do and product code may not (clippy.toml says why it may not); counters are whole numbers, and helpers
# may have the shape that reads best where they are called.
IN_TESTS := -A clippy::disallowed_methods -A clippy::disallowed_types -A clippy::unwrap_used -A clippy::expect_used \
	-A clippy::panic -A clippy::print_stdout -A clippy::print_stderr -A clippy::float_cmp -A clippy::needless_pass_by_value \
	-A clippy::unnecessary_wraps -A clippy::duration_suboptimal_units -A clippy::format_collect -A clippy::format_push_string
# Exactly one crypto provider is linked: $(call ONLY,wanted,unwanted) reads the names of a dependency graph.
NAMES   := --target all --prefix none --format {p}
ONLY     = awk '$$1 == "$(1)" { wanted = 1 } $$1 == "$(2)" { other = 1 } END { if (!wanted || other) \
	{ print "crypto provider: $(1) alone should be linked; wanted found: " wanted + 0 ", $(2) found: " other + 0; exit 1 } }'

.PHONY: help setup tools kubernetes helm node manifests build image cluster cluster-down demo test test-image test-aws-lc-rs lint bench bench-node bench-kubernetes fmt

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: tools kubernetes helm node ## Fetch and build everything that tests need; other commands call what they need of it

tools: ## Fetch the pinned tools (Envoy, cargo-deny, cargo-nextest)
	@testbed/tools/setup.sh

kubernetes: ## Build the Kubernetes and cert-manager of the test bed (some ten minutes, once per machine; needs Go)
	@testbed/kubernetes/build.sh

helm: ## Build the Helm that renders and tests the chart (some minutes, once per machine; needs Go)
	@testbed/tools/helm.sh

node: ## Install what the test bed's nodes need (containerd, runc, CNI plugins; needs root and apt-get, once per machine)
	@testbed/tools/node.sh

# Each from the chart's template of the same name, by a file of values: deploy/ is what the chart installs by its own.
manifests: helm ## Render the plain manifests of deploy/ from the chart
	@.tools/manifests deploy/chart deploy/chart/values.yaml ensign-system deploy admission.yaml csidriver.yaml rbac.yaml settings.yaml
	@.tools/manifests deploy/chart deploy/chart-values/pods.yaml ensign-system deploy daemonset.yaml ra.yaml
	@.tools/manifests deploy/chart deploy/chart-values/optional.yaml ensign-system deploy/optional admission.yaml networkpolicy.yaml rbac.yaml

build: ## Build every program
	$(CARGO) build $(LOCKED) --workspace --bins

# The folders that the compiler would write into the programs are named the same on every machine; a target folder of its own,
# because other flags build everything anew.
REMAP = --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo --remap-path-prefix=$(CURDIR)=/ensign \
	--remap-path-prefix=$(abspath $(TARGET))=/target
# Or aws-lc-rs, which makes RSA keys.
PROVIDER ?= ring
image: ## Build the images of agent and RA (OCI archives in target/images, with their bills of materials; no daemon needed)
	RUSTFLAGS="$(REMAP)" $(CARGO) build $(LOCKED) --release --bins -p ensign-agent -p ensign-ra --target-dir $(TARGET)/image \
		--no-default-features --features $(PROVIDER)
	$(CARGO) build $(LOCKED) --workspace --bins $(ONE_GRAPH)
	@exec $(TARGET)/debug/ensign-image --programs $(TARGET)/image/release --provider $(PROVIDER) --out $(TARGET)/images

cluster: tools kubernetes build ## Get a shell with kubectl in a real Kubernetes with cert-manager, our RA and Envoys that have its certificates
	@exec $(TARGET)/debug/ensign-cluster

cluster-down: ## End that cluster from another shell
	@exec $(TARGET)/debug/ensign-cluster down

demo: tools build ## Watch real Envoys speak mTLS with our certificates: rotation under load, signers kept apart
	@exec $(TARGET)/debug/ensign-demo

test: setup ## Run every test, on real Envoys where a user would have one
	$(CARGO) build $(LOCKED) --workspace --bins --tests
	$(NEXTEST) --workspace
	$(MAKE) test-aws-lc-rs

# Not part of `test`: a release build takes as long as all of that build. The same images of unoptimised programs are tested there.
test-image: setup image ## Run the tests on real nodes with exactly the images of `make image`
	$(CARGO) build $(LOCKED) --workspace --bins --test ring_e2e
	ENSIGN_IMAGES=$(abspath $(TARGET)/images) $(NEXTEST) --workspace --test ring_e2e

test-aws-lc-rs: setup ## Run the unit tests, one on real Envoys and one on a real node with the other crypto provider (part of `test`)
	$(CARGO) build $(LOCKED) --lib --bins --test ring_envoy --test ring_e2e $(AWS)
	$(NEXTEST) --lib --bins --test ring_envoy --test ring_e2e $(AWS) \
		-E 'not binary(/^ring_/) or test(/^provider::/) or test(/^attacks::rsa::/)'

lint: tools ## Formatting, clippy, rustdoc, dependency policy, tidy rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --lib --bins $(ONE_GRAPH) -- -D warnings
	$(CARGO) clippy $(LOCKED) --workspace --tests --benches -- -D warnings $(IN_TESTS)
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc $(LOCKED) --workspace --no-deps --document-private-items --lib $(ONE_GRAPH) --quiet
	$(CARGO) tree $(LOCKED) --workspace $(NAMES) | $(call ONLY,ring,aws-lc-rs)
	$(CARGO) tree $(LOCKED) --workspace $(NAMES) --no-default-features --features aws-lc-rs | $(call ONLY,aws-lc-rs,ring)
	.tools/cargo-deny $(LOCKED) --workspace --log-level error check bans licenses sources
	$(CARGO) test $(LOCKED) --quiet --test tidy

bench: ## Print figures and their ratio to the raw limits (release build); writes docs/performance.md
	$(CARGO) build $(LOCKED) --release --bins -p ensign-agent -p ensign-ra -p ensign-benches
	@exec $(TARGET)/release/ensign-bench

bench-node: ## Print what a node's pods notice of their agent: first secrets, floods, upgrades; writes docs/performance.md
	$(CARGO) build $(LOCKED) --release --bins -p ensign-agent -p ensign-ra -p ensign-benches
	@exec $(TARGET)/release/ensign-bench node

bench-kubernetes: kubernetes ## Print the RA's figures on a real Kubernetes beside what the cluster does without it; writes docs/performance.md
	$(CARGO) build $(LOCKED) --release --bins -p ensign-agent -p ensign-ra -p ensign-benches
	@exec $(TARGET)/release/ensign-bench kubernetes

fmt: ## Format the sources
	$(CARGO) fmt --all
