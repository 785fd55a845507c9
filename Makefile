# `make demo` and `make test` are all a fresh clone needs; each sets up $(VENV) first, once.
# Another Python or another place:  make test PYTHON=/path/to/python3.12 VENV=.venv-3.12

SHELL := /bin/bash
VENV ?= .venv
UV ?= uv
JOBS ?= 2
PYTEST_ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The torch and data tests need what the lock does not bring; they skip by name where it is missing.
ALL_MARKS := not gpu

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all lint format types lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 20

setup: $(READY)  ## make $(VENV) from the hashed lock and install jaxdiff into it, once

# A candidate is run, not just found: a version manager's shim may be there with nothing behind it.
$(READY): requirements.lock pyproject.toml
	@set -e; python=""; \
	for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	      >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "jaxdiff needs Python 3.11 or later with its venv module; none of these is one:" \
	    "$(or $(PYTHON),python3.13 python3.12 python3.11 python3)." >&2; \
	  echo "Install one (Debian, Ubuntu: apt install python3 python3-venv)," \
	    "or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "setting up $(VENV) with $$("$$python" --version) (about a minute or two)"; \
	"$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Huge pages spare glibc 47,000 page faults a training step: a fifth of the time of the demo.
demo: $(READY)  ## train, sample and restore on the CPU in minutes; pictures in out/demo
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/jaxdiff demo

test: $(READY)  ## the tests, without the slow ones and those that need more than the lock
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-slow: $(READY)  ## only the slow tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "slow and $(ALL_MARKS)" $(PYTEST_ARGS)

test-all: $(READY)  ## every test this machine can run (on a GPU: pytest -m gpu)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "$(ALL_MARKS)" $(PYTEST_ARGS)

lint: $(READY)  ## ruff: lint, and is it formatted?
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## ruff: repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

# One file for every Python from 3.11 on, with hashes, naming no host; --no-config keeps the
# settings of one machine out.
lock:  ## resolve requirements.lock anew (needs uv: pip install uv)
	UV_PYTHON_DOWNLOADS=never $(UV) pip compile pyproject.toml --extra dev --universal \
	  --python-version 3.11 --fork-strategy requires-python --generate-hashes --upgrade \
	  --no-annotate --no-config --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --quiet --output-file requirements.lock
	@! grep -nE '://|file:|^ *@' requirements.lock

clean:  ## remove the environment, the outputs and the caches
	rm -rf .venv .venv-* out .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
