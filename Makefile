# make setup: .venv from the lock.  make mini: the whole method in miniature.  make test: lint and all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1

.PHONY: setup mini test lint base clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

mini: setup
	$(BIN)/rationale experiment=mini seed=$(SEED)
	@$(BIN)/python -m rationale.reporting runs/mini/report

base: setup
	$(BIN)/rationale experiment=mini_base

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
