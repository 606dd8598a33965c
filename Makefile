# Everything a developer does, from nothing but Python >= 3.11 and make.
# One virtual environment, .venv; a stamp file for each lock, so that a changed lock is installed again and an
# unchanged one costs nothing.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-pythons lint fmt bench bench-scale bench-profile bench-report bench-check bench-baseline soak \
	lock clean

VENV := .venv
BIN := $(VENV)/bin
# What pip may install: exactly what the lock names, and never code that has to be built first.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all:
CODE := $(wildcard src tests benchmarks)

PORT ?= 8080
CMD ?= $(BIN)/mcp-server-git --repository .
ARGS ?=
BENCH ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/run.stamp ## serve CMD (default: a git MCP server on this repository) on PORT; ARGS are the broker's options
	@exec $(BIN)/stdio-broker run --hints --port $(PORT) $(ARGS) -- $(CMD)

# Python starts the broker of an end-to-end test as a process of its own: its coverage lies in a file beside ours.
test: lint ## lint, then every test with coverage
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=95
	@$(BIN)/coverage report --fail-under=100 --include='*/supervisor/*,*/protocol/*' >/dev/null || \
		{ echo 'supervisor and protocol must be covered completely'; exit 1; }

# Every other Python that is at hand, each with an environment of its own; the library has to run on all of them.
PYTHONS ?= $(shell for python in python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; print(sys.executable)' 2>/dev/null; done)

test-pythons: $(VENV)/dev.stamp ## the supervisor's tests on every Python of PYTHONS (default: those on PATH)
	@test -n '$(strip $(PYTHONS))' || { echo 'no Python 3.11 to 3.14 is on PATH; name some with PYTHONS="..."' >&2; exit 1; }
	@for python in $(PYTHONS); do \
		venv=$(VENV)/pythons/$$($$python -c 'import platform; print(platform.python_version())') || exit 1; \
		echo "testing with $$python in $$venv"; \
		$$python -m venv $$venv && \
		$$venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
			-r requirements/dev.lock && \
		$$venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . && \
		$$venv/bin/python -m pytest -q tests/supervisor tests/testing || exit 1; \
	done

lint: $(VENV)/dev.stamp ## style, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports

fmt: $(VENV)/dev.stamp ## format, and mend what can be mended safely
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: $(VENV)/dev.stamp ## measure the broker beside its peers, and write docs/performance.md; BENCH are options (--help)
	$(BIN)/python -m benchmarks --document $(BENCH)

bench-scale: $(VENV)/dev.stamp ## 1,000 sessions with their own children, growing messages, a storm of starts; 2 minutes
	$(BIN)/python -m benchmarks.scale $(BENCH)

bench-profile: $(VENV)/dev.stamp ## where each microsecond of a call goes; BENCH='--against NAME=CHECKOUT' compares
	$(BIN)/python -m benchmarks.profile $(BENCH)

soak: $(VENV)/dev.stamp ## half an hour of mixed load with crashes: nothing may grow, every answer must be right
	$(BIN)/python -m benchmarks.soak $(BENCH)

bench-report: $(VENV)/dev.stamp ## write docs/performance.md again from the last figures, without measuring
	$(BIN)/python -m benchmarks.render --document

# Of ratios within one run, never of times: not part of `make test`, as it wants a machine that is not busy.
bench-check: $(VENV)/dev.stamp ## fail where the broker has become slower beside a constant answer than the baseline says
	$(BIN)/python -m benchmarks.regression check $(BENCH)

bench-baseline: $(VENV)/dev.stamp ## measure what bench-check compares with, into benchmarks/baseline.json
	$(BIN)/python -m benchmarks.regression record $(BENCH)

# An index address does not belong in a repository, and the command in the header is the one to type. A release must
# be a week old: by then others have met what is wrong with it.
COMPILE = $(VENV)/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' --no-emit-index-url --no-emit-find-links \
	--exclude-newer '7 days' --upgrade pyproject.toml

lock: $(VENV)/python.stamp ## resolve the newest dependencies into requirements/
	$(BIN)/python -m venv $(VENV)/uv
	$(VENV)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --group dev --output-file requirements/dev.lock
	$(COMPILE) --group run --constraint requirements/dev.lock --output-file requirements/run.lock

clean: ## remove everything that make has made
	rm -rf $(VENV) .cache build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A name on PATH may be a shim without a version behind it: only a Python that runs and is new enough counts.
$(VENV)/python.stamp:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
		if $$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "creating $(VENV) with $$($$python --version)"; \
			$$python -m venv --clear $(VENV) && touch $@; exit; \
		fi; \
	done; \
	echo 'stdio-broker needs Python 3.11 or newer, with venv; name one with PYTHON=/path/to/python' >&2; exit 1

# --no-deps: the lock has installed them. --no-build-isolation: the lock has installed the build backend too.
$(VENV)/run.stamp: requirements/run.lock pyproject.toml $(VENV)/python.stamp
	@echo 'installing what make run needs'
	@$(INSTALL) -r requirements/run.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock $(VENV)/run.stamp
	@echo 'installing what make test needs'
	@$(INSTALL) -r requirements/dev.lock
	@touch $@
