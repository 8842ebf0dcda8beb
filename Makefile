# Everything here works on a fresh machine with Python 3.11+ and make.
PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help

help: ## list what make can do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "etude needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PY=python3.12")'
	@echo "setting up $(VENV) with pinned versions (once; about a minute)"
	@test -x $(BIN)/python || $(PY) -m venv $(VENV)
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: $(STAMP) ## set up, then learn to read real handwritten digits (under a minute, no download)
	@echo "training on scikit-learn's 1,797 handwritten digits"
	@$(BIN)/etude demo

demo-text: $(STAMP) ## set up, then learn English from Python's own documentation (a minute or two, no download)
	@$(BIN)/etude demo-text

test: $(STAMP) ## set up, then run the fast tests
	@echo "running the fast tests"
	@$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(STAMP) ## run every test, the slow ones too
	@$(BIN)/python -m pytest -n 2

check: $(STAMP) ## lint, types, and file and function budgets
	@echo "ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "mypy --strict" && $(BIN)/mypy
	@echo "budgets" && $(BIN)/python tests/budgets.py

test-timm: ## set up an environment with timm in .venv-timm, then test models of timm
	@test -x .venv-timm/bin/python || $(PY) -m venv .venv-timm
	@.venv-timm/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --editable '.[test,timm]'
	@.venv-timm/bin/python -m pytest tests/test_timm.py

kill-test: $(STAMP) ## kill a training 200 times, also inside a save: nothing lost, the same bits (a minute)
	@$(BIN)/python tests/kill.py

bench: $(STAMP) ## time the training loop against a bare one, side by side
	@$(BIN)/python benchmarks/loop.py

docs: $(STAMP) ## build the documentation into docs/_build
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@$(BIN)/sphinx-build -W -q docs docs/_build && echo "open docs/_build/index.html"

clean: ## remove the environment and everything built
	rm -rf $(VENV) .venv-timm docs/_build build dist .mypy_cache .ruff_cache .pytest_cache

.PHONY: help demo demo-text test test-all test-timm check kill-test bench docs clean
