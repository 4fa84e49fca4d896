# Everything a person or CI runs. `make help` lists it; ARGS="..." is handed to the program behind a target.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
PY := .venv/bin/python
PYTEST := tools/keep_ownership.sh $(PY) -m pytest
ARGS ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: ## Make or refresh .venv from the hash-pinned lock
	@tools/keep_ownership.sh tools/setup_venv.sh "$(PYTHON)"

.PHONY: tools
tools: ## Unpack etcd and libfaketime into .tools; nothing is installed on the host
	@tools/keep_ownership.sh tools/unpack_tools.sh

.PHONY: lab
lab: venv tools ## Run the guided lab (ARGS=--list names its scenarios, ARGS=--help the rest)
	@tools/keep_ownership.sh $(PY) docs/lab/lab.py $(ARGS)

.PHONY: test
test: venv tools ## Run every test that is not marked slow
	@$(PYTEST) -m "not slow" $(ARGS)

.PHONY: test-slow
test-slow: venv tools ## Run the tests marked slow
	@$(PYTEST) -m slow $(ARGS)

.PHONY: property
property: venv ## Run the property tests
	@$(PYTEST) tests/property $(ARGS)

.PHONY: e2e
e2e: venv tools ## Run the end-to-end tests, slow ones included
	@$(PYTEST) tests/e2e $(ARGS)

.PHONY: adversarial
adversarial: venv tools ## Run the attacks, slow ones included
	@$(PYTEST) tests/adversarial $(ARGS)

MINUTES ?= 3
SEED ?= 0

.PHONY: faults
faults: venv tools ## Run a cluster under faults and judge it (MINUTES=60 SEED=7 ARGS="--managers 5 --only kill")
	@tools/keep_ownership.sh $(PY) -m tests.faults --minutes $(MINUTES) --seed $(SEED) $(ARGS)

.PHONY: faults-mutants
faults-mutants: venv tools ## Plant bugs and show that the fault runs find each (ARGS="NAME ...")
	@tools/keep_ownership.sh $(PY) -m tests.faults.mutants $(ARGS)

AGENTS ?= 1000
SECRETS ?= 10000
SERVICES ?= 200

.PHONY: scale
scale: venv tools ## Run thousands of agents under churn and judge it (AGENTS=5000 SECRETS=100000 SERVICES=1000 MINUTES=30)
	@tools/keep_ownership.sh $(PY) -m tests.scale --agents $(AGENTS) --secrets $(SECRETS) \
		--services $(SERVICES) --minutes $(MINUTES) --seed $(SEED) $(ARGS)

SECONDS_EACH ?= 20

.PHONY: fuzz
fuzz: venv tools ## Fuzz every decoder, guided by branches taken (SECONDS_EACH=60 ARGS="csr old-leaf")
	@tools/keep_ownership.sh tools/setup_fuzz.sh
	@tools/keep_ownership.sh build/fuzz-venv/bin/python -m tests.fuzz --seconds $(SECONDS_EACH) $(ARGS)

.PHONY: fuzz-api
fuzz-api: venv tools ## Fuzz the API of a real manager from its own description (ARGS="--examples 50")
	@tools/keep_ownership.sh tools/setup_fuzz.sh
	@tools/keep_ownership.sh build/fuzz-venv/bin/python -m tests.fuzz.api $(ARGS)

.PHONY: coverage
coverage: venv tools ## Run the tests of `make test` and show which branches they miss
	@tools/keep_ownership.sh $(PY) -m coverage run -m pytest -m "not slow" $(ARGS)
	@$(PY) -m coverage report

.PHONY: test-wheel
test-wheel: venv tools ## Build the wheel and run the unit tests against it, outside the checkout
	@tools/keep_ownership.sh tools/test_wheel.sh "$(PYTHON)" $(ARGS)

.PHONY: test-fresh
test-fresh: ## Run the README's commands in a minimal Debian root (needs root and mmdebstrap)
	@tools/keep_ownership.sh tools/test_fresh.sh $(ARGS)

.PHONY: test-containers
test-containers: venv tools ## Build the images and test the lab in containers, in an engine of its own (needs root)
	@tools/keep_ownership.sh tools/container_engine.sh $(PY) -m pytest tests/containers $(ARGS)

.PHONY: bench
bench: venv tools ## Measure; prints a table, writes build/bench/latest.json (ARGS="--full")
	@tools/keep_ownership.sh $(PY) -m tests.bench.run $(ARGS)

.PHONY: bench-peers
bench-peers: venv tools ## Measure beside OpenBao and Docker Swarm, turn by turn (ARGS="--full")
	@tools/keep_ownership.sh tools/setup_peers.sh
	@tools/keep_ownership.sh $(PY) -m tests.bench.peers.run $(ARGS)

.PHONY: lint
lint: venv ## Check style, spelling, layers and the generated docs
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@.venv/bin/codespell
	@.venv/bin/lint-imports
	@$(PY) tools/generate_docs.py --check

.PHONY: type
type: venv ## Check types
	@$(PY) -m mypy
	@$(PY) -m mypy tests tools docs/lab

.PHONY: format
format: venv ## Format the code
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

.PHONY: docs
docs: venv ## Write the generated parts of the docs
	@$(PY) tools/generate_docs.py

.PHONY: docs-check
docs-check: venv ## Check that the docs match the code
	@$(PY) tools/generate_docs.py --check
	@$(PYTEST) tests/architecture $(ARGS)

.PHONY: lock
lock: ## Resolve the dependencies again and write both locks (needs uv)
	@tools/lock.sh $(ARGS)

.PHONY: clean
clean: ## Remove everything that make made
	@rm -rf --one-file-system .venv .tools .lab build dist .hypothesis .coverage*
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
