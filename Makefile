# VENV: the environment that is used, made where there is none; PYTHON: what it is made with
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# The networks of the tests are so small that a second thread only waits
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest

.PHONY: quickstart test test-all check bench methods faults

# Search, derive and retrain on two cores with images that come with scikit-learn; ends in a table
quickstart: $(VENV)/.installed
	$(BIN)/nas search
	$(BIN)/nas derive
	$(BIN)/nas retrain

test: check
	$(PYTEST) -m "not slow"

test-all: check
	$(PYTEST)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# One table of every space and strategy, kept in benchmarks/results/<machine>.json: twenty minutes
bench: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run.py

# What may befall a run: 24 to 92 minutes for twenty tries of each fault; TRIES=3 make faults: five to twenty. Some need root
faults: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults

# The table of methods of docs/results.md: under two hours on two cores; DATASET=digits: minutes
DATASET ?= $(firstword $(wildcard $(NAS_DATA)/cifar10_20k.npz ../shared/data/cifar10_20k.npz) cifar10)
methods: $(VENV)/.installed
	$(BIN)/python benchmarks/hours/methods.py $(DATASET)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "nas needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.installed
