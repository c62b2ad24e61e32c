# make help      what there is
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help dev demo test test-slow check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[local,train,eval,data,test,dev]'
	touch $@

dev: $(VENV)/installed  ## make the virtual environment and install everything

demo: $(VENV)/installed  ## the whole learning loop on a laptop, no key, no GPU: watch a tiny model learn to deal
	$(BIN)/sotopia-env pi --preset quick

test: $(VENV)/installed  ## run the tests, a small real language model included
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(VENV)/installed  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
