# Everything happens in .venv beside this file; `make` alone says what there is.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
PORT ?= 8000
ARGS ?=
export PYTHON

VENV := .venv
BIN := $(VENV)/bin
PAGE_SOURCES := $(shell find frontend -type f -not -path '*/node_modules/*')
PACKAGE := pyproject.toml constraints.txt hatch_build.py $(PAGE_SOURCES)
# The same Node as the package's build uses: from PyPI, in the virtual environment.
NPM := $(BIN)/python hatch_build.py

.PHONY: help install demo test check clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.demo ## maskstream and its demo into .venv

demo: $(VENV)/.demo ## install if need be, then serve a demonstration (PORT=8000)
	@echo "Open http://127.0.0.1:$(PORT)/ when it says ready; Ctrl-C ends it."
	@exec $(BIN)/maskstream serve --source demo=demo: --port $(PORT)

test: $(VENV)/.dev $(VENV)/.tools frontend/node_modules/.dev ## install if need be, then run all tests (ARGS="-k word")
	$(NPM) test
# Symbols are bound at the start: pytest's faulthandler gives signal handlers a stack of 16 KB, which
# glibc's lazy binding overflows where AMX registers are in use: a timeout would end as a crash.
	LD_BIND_NOW=1 $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev frontend/node_modules/.dev ## lint, types, imports; the page's too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(NPM) run check

clean: ## remove .venv and all that was built
	rm -rf $(VENV) stream_server/web/page frontend/node_modules dist build artifacts
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the goals above stand on ----------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "$(PYTHON) is not Python 3.11 to 3.13: run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@scripts/system-packages run
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python $(PACKAGE)
	@echo "Installing maskstream into $(VENV): some minutes and 6 GB the first time (torch brings CUDA)."
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(BIN)/python $(PACKAGE)
	@echo "Installing maskstream and what its tests need into $(VENV): some minutes the first time."
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.tools: scripts/system-packages | $(BIN)/python
	@scripts/system-packages test
	@touch $@

frontend/node_modules/.dev: $(VENV)/.dev frontend/package-lock.json
	$(NPM) ci --no-audit --no-fund
	@touch $@
