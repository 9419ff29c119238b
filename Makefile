# `make demo` and `make test` set up what they need, can be run again and again, in any order, and
# say what they do.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := deploy/locks/main.txt
STAMP := $(VENV)/.fitment-installed
# Extra arguments for installing torch, for machines whose index has a CPU build elsewhere.
TORCH_ARGS ?=
# Tests of parts run side by side, each file's together, and so do the tests of the whole that wait
# more than they work; 0 runs all one after the other. What judges times of models always does.
TEST_WORKERS ?= 3
BESIDE := $(addprefix tests/e2e/test_,$(addsuffix .py,announced killed readme revert fit))
ALONE := $(addprefix tests/e2e/test_,$(addsuffix .py,demo loop))
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

export OMP_NUM_THREADS ?= 2
export PIP_ROOT_USER_ACTION ?= ignore

.PHONY: help setup mosquitto arm64 stock-client demo bench test pythons lint lock clean

help:
	@echo "make demo    set up, and run the whole loop with three devices; leaves demo-out/"
	@echo "make test    set up and run every check and test"
	@echo "make bench   set up, and measure what the README claims; leaves bench-out/"
	@echo "make pythons the agent's own tests under every Python from 3.10 that is there"
	@echo "make lint    ruff, mypy, import contracts, generated code"
	@echo "make clean   remove the environment and what was built"

$(VENV)/bin/python:
	@echo "== Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) deploy/setup/check_python.py
	@$(PYTHON) -m venv $(VENV)

$(STAMP): $(VENV)/bin/python $(LOCK) pyproject.toml
	@echo "== Installing locked requirements (about 1.5 GB, most of it torch)"
	@$(PIP) install $(TORCH_ARGS) --constraint $(LOCK) torch
	@$(PIP) install --requirement $(LOCK)
	@echo "== Installing fitment"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

setup: $(STAMP) mosquitto

mosquitto:
	@sh deploy/setup/mosquitto.sh

arm64: $(STAMP)
	@sh deploy/setup/arm64.sh .make/arm64 $(BIN)/python

stock-client: $(STAMP)
	@$(BIN)/python -m tests.benchmarks.stock_client

demo: setup
	@echo "== demo"; $(BIN)/fitment demo --out demo-out

bench: setup
	@echo "== benchmarks"; $(BIN)/python -m tests.benchmarks --out bench-out

lint: $(STAMP)
	@echo "== ruff"; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy"; $(BIN)/mypy && $(BIN)/mypy --python-version 3.10 -p agent -p profiles
	@echo "== import contracts"; PYTHONPATH=.:protos $(BIN)/lint-imports
	@echo "== generated code"; $(BIN)/python protos/generate.py --check

test: setup lint arm64 stock-client
	@echo "== tests of parts"; $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --durations 30 --durations-min 5 $(patsubst %,--ignore %,$(BESIDE) $(ALONE))
	@echo "== tests of the whole"; $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup $(BESIDE)
	@echo "== tests of the whole, alone"; $(BIN)/python -m pytest $(ALONE)

pythons:
	@sh deploy/setup/pythons.sh .make/pythons

lock: $(VENV)/bin/python
	@echo "== Locking what is installed now"
	@{ sed -n '/^#/p' $(LOCK); $(PIP) freeze --exclude-editable | sed 's/+cpu//'; } > $(LOCK).new
	@mv $(LOCK).new $(LOCK)

clean:
	rm -rf $(VENV) .make demo-out bench-out build dist
