# One command for each thing one does with cartsvc; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install run test test-container test-browser soak lint format lock bench

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamps are older than what they were made from when there is something to install.
.venv/.run: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.dev: requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch .venv/.run $@

install: .venv/.dev ## Make .venv with everything that development needs

run: .venv/.run ## Serve on PORT (8080)
	$(BIN)/gunicorn wsgi:app

test: .venv/.dev ## Run the tests (not those that need Docker or Chromium)
	$(BIN)/pytest --numprocesses=3 --dist=loadfile

test-container: .venv/.dev ## Test the container: needs Docker
	$(BIN)/pytest -m container tests/container

test-browser: .venv/.dev ## Test Swagger UI and CORS in Chromium: needs /usr/bin/chromium, or CHROMIUM=path
	$(BIN)/pytest -m browser tests/browser

soak: .venv/.dev ## Run the randomised tests for long; SEED=n repeats a run
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest --hypothesis-seed=$(or $(SEED),random) \
		tests/test_service_model.py tests/test_cart.py tests/test_*_store.py tests/test_valkey_cluster.py \
		tests/live/test_live_model.py tests/live/test_live_schemathesis.py
	SOAK_ROUNDS=20 $(BIN)/pytest tests/live/test_live_stores.py tests/live/test_live_workers.py \
		tests/live/test_live_hostile.py::test_many_small_bodies

lint: .venv/.dev ## Check style, types, Dockerfile and compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: .venv/.dev ## Put the code into its format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: .venv/.dev ## Compile requirements*.txt from pyproject.toml anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" pyproject.toml --group dev -o requirements-dev.txt

bench: .venv/.dev ## Measure: needs wrk
	$(BIN)/python -m bench
