# Two commands do all the set-up on a machine with Python 3.11+ and make:
#   make demo    install into .venv and run `hybridvideo demo`
#   make test    install the development extras too, then lint, types, tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

OLDEST := .venv-oldest
OLDEST_PYTHON ?= python3.11

PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
PIP_OLDEST := PIP_DISABLE_PIP_VERSION_CHECK=1 $(OLDEST)/bin/python -m pip

.PHONY: help demo test test-oldest lint types tests clean

help:
	@echo "make demo    install into $(VENV), then: render videos, train, evaluate, predict, extract, report"
	@echo "make test    install the development extras too, then: lint, types, tests"
	@echo "make lint | types | tests    one of the three"
	@echo "make test-oldest   install the lowest releases that pyproject.toml allows into $(OLDEST), then run the tests there"
	@echo "make clean   remove $(VENV), $(OLDEST) and caches; runs/ stays"

demo: $(VENV)/installed
	$(BIN)/hybridvideo demo

test: lint types tests

lint: $(VENV)/installed-dev
	@echo "== lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	@echo "== types"
	$(BIN)/mypy

tests: $(VENV)/installed-dev
	@echo "== tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -q

# Old releases call what their neighbours have deprecated since; what we call ourselves `make tests` finds.
test-oldest: $(OLDEST)/installed
	@echo "== tests, with the lowest releases"
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto -q -W ignore::DeprecationWarning

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "hybridvideo needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "== making $(VENV)"
	$(PYTHON) -m venv $(VENV)

# The stamp is older than pyproject.toml after a change of the dependencies, and only then is installed again.
$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	@echo "== installing (torch and its libraries are about 5 GB; a minute or more)"
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml $(VENV)/installed | $(VENV)/bin/python
	@echo "== installing the development extras"
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

$(OLDEST)/installed: pyproject.toml tools/floors.py
	@echo "== installing the lowest releases (about 6 GB; some minutes)"
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python tools/floors.py > $(OLDEST)/floors.txt
	$(PIP_OLDEST) install --quiet --constraint $(OLDEST)/floors.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
