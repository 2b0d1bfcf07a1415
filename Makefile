# Needs python3 (3.11 or newer) and make; everything else is set up in .venv when it is missing or stale.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.headwater-ready
EVENTS ?= 50000
TESTS ?=
SECONDS_EACH ?= 1200
# Tests with servers wait more than they compute: two processes a core, and no more than six, each with a broker of its own.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(6, 2 * (os.cpu_count() or 1)))')

# Without compiled modules each of the many processes spends most of its start compiling: keep them, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test test-fast test-full fuzz check bench bench-identity lock clean

help:
	@echo "Headwater: a first-party event stream. The loop:"
	@echo
	@echo "  make demo    the whole house on this machine: $(EVENTS) simulated events (EVENTS=n), a reconciled ledger, the ops page"
	@echo "  make test    every test, against real Kafka, Redis and ClickHouse started here (TESTS='tests/schemas -k codec' for some)"
	@echo "  make test-fast   the tests that need no servers, while typing; make test-full   every test, property tests at full size"
	@echo "  make fuzz    each parser of the collector for $(SECONDS_EACH) s (SECONDS_EACH=n); with atheris installed, guided by coverage"
	@echo "  make check   style, types, contracts, compose file: change something, check, test, commit"
	@echo "  make bench   how fast it is, as ratios to a hand-written loop beside it"
	@echo "  make bench-identity   how well identities are told apart, beside four other ways, on a world whose truth is known"
	@echo "  make lock    resolve pyproject.toml anew into requirements.lock"
	@echo "  make clean   remove the environment, caches and .headwater/"
	@echo
	@echo "Each sets up $(VENV) first when it is missing or older than requirements.lock or pyproject.toml."
	@echo "Then: $(RUN)/headwater --help"

setup: $(STAMP)

$(STAMP): requirements.lock requirements.setup.lock pyproject.toml
	@echo "==> setting up $(VENV) (once, and after a change of the lock; about two minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "headwater needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> installer"
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.setup.lock
	@echo "==> packages, as locked"
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(RUN)/python -m uv pip sync --require-hashes requirements.lock
	@echo "==> headwater itself"
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(RUN)/python -m uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	@$(RUN)/headwater demo --events $(EVENTS)

test: $(STAMP)
	@echo "==> tests, a file at a time in each of $(WORKERS) processes (real Kafka, Redis and ClickHouse; the first run fetches Kafka once)"
	@$(RUN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -ra --durations=5 $(TESTS)

test-fast: $(STAMP)
	@$(RUN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not server" $(TESTS)

test-full: export HEADWATER_TESTS := full
test-full: export HEADWATER_CANARY := full
test-full: test

# atheris is no locked package, because it has no wheels for some platforms: .venv/bin/python -m uv pip install atheris
fuzz: $(STAMP)
	@$(RUN)/python -c 'from tests.fuzz.seeds import SEEDS; print(*SEEDS, sep="\n")' \
		| while read -r target; do $(RUN)/python -m tests.fuzz.run $$target --seconds $(SECONDS_EACH) || exit 1; done

check: $(STAMP)
	@echo "==> style"
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@echo "==> types"
	@$(RUN)/mypy
	@echo "==> imports, one way"
	@$(RUN)/lint-imports --no-logo
	@echo "==> contracts"
	@$(RUN)/headwater contracts lint
	@echo "==> compose file, names, sizes, documents"
# The schema is check-jsonschema's; its command line does not start with the click that faust-streaming allows.
	@$(RUN)/python -m pytest tests/infra/test_compose.py tests/project/test_structure.py tests/project/test_docs.py
	@echo "==> known vulnerabilities"
	@$(RUN)/python infra/ops/audit.py requirements.lock

bench: $(STAMP)
	@$(RUN)/python -m bench

bench-identity: $(STAMP)
	@$(RUN)/python -m bench.identity.__main__ --causes

lock: $(STAMP)
	@$(RUN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --all-extras pyproject.toml -o requirements.lock
	@echo "requirements.lock is up to date with pyproject.toml"

clean:
	@test ! -f .headwater/up.lock \
		|| $(PYTHON) -c 'import fcntl; fcntl.flock(open(".headwater/up.lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null \
		|| { echo "a house runs from .headwater/ (process $$(cat .headwater/up.lock)): stop it first (Ctrl-C in its terminal)" >&2; exit 1; }
	rm -rf $(VENV) .headwater .mypy_cache .ruff_cache .pytest_cache .hypothesis
