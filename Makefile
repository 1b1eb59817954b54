# The everyday commands. LIKENESS_PYTHON, where it is set, takes the place of .venv.
PYTHON ?= $(or $(LIKENESS_PYTHON),python3)
# Processes that test side by side, each with a Spark of its own; make test PARALLEL= runs one. One more than two
# cores, for a test often waits.
PROCESSES ?= 3
PARALLEL ?= --numprocesses $(PROCESSES) --dist loadscope --no-loadscope-reorder
VENV_PYTHON := $(or $(LIKENESS_PYTHON),.venv/bin/python)

.DEFAULT_GOAL := help
.PHONY: help setup test test-stack test-all stack-up stack-down stack-status stack-env lint format bench bench-full bench-gpu schemas clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv, development tools included, or bring it up to date
	@$(PYTHON) deploy/environment.py --extra dev

test: setup ## run the tests, but for those marked slow, full or stack
	$(VENV_PYTHON) -m pytest $(PARALLEL) --durations 15 -m "not slow and not full and not stack"

test-stack: setup ## run the tests on real HDFS, YARN and HBase, started and stopped for them
	$(VENV_PYTHON) -m pytest -m stack

test-all: setup ## run every test; those marked full need LIKENESS_CLOTHING
	$(VENV_PYTHON) -m pytest $(PARALLEL) --durations 40

stack-up: ## start HDFS, YARN and HBase on this machine
	@$(PYTHON) deploy/local/stack.py up

stack-down: ## stop them; data stays in var/stack
	@$(PYTHON) deploy/local/stack.py down

stack-status: ## say which of their servers run, and where
	@$(PYTHON) deploy/local/stack.py status

stack-env: ## print what a shell needs to use them
	@$(PYTHON) deploy/local/stack.py env

lint: setup ## check style, layout and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

format: setup ## lay the code out, and correct what has one correction
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

bench: setup ## measure this machine
	$(VENV_PYTHON) -m tests.bench

bench-full: setup ## measure it with indexes of a million vectors as well
	LIKENESS_BENCH_FULL=1 $(VENV_PYTHON) -m tests.bench

bench-gpu: setup ## measure extraction on this machine's GPU
	LIKENESS_BENCH=gpu $(VENV_PYTHON) -m tests.bench

schemas: setup ## render schemas/ from the code
	$(VENV_PYTHON) -m likeness.ops.contracts

clean: ## remove caches and leftovers of builds; .venv and var stay
	rm -rf build dist lib/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse metastore_db derby.log
	find deploy jobs lib tests -name __pycache__ -prune -exec rm -rf {} +
