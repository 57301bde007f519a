# The two commands of a newcomer are `make demo` and `make test`. Both set up what they need.
#
#   make demo [IMAGES="a.qcow2 b.qcow2"]   the main job, shown on two disks
#   make test [ARGS="-k bitmap"]           lint, then all tests
#   make fuzz [TARGET=qcow2_header] [SECONDS=60]   look for more with atheris, which it installs
#   make lint | format | bench | clean

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
# What pip does for a package that is not editable. Where PYTHONDONTWRITEBYTECODE is set, as in many
# containers, every start would compile all that it loads: 0.1 s.
COMPILE := $(BIN)/python -m compileall -q src

# A stamp is newer than pyproject.toml when the packages named there are installed.
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

FUZZ := $(VENV)/.installed-fuzz
TARGET := qcow2_image
SECONDS := 60

.PHONY: test lint format demo bench fuzz clean tools

test: lint tools
	@$(COMPILE)
	$(BIN)/python -m pytest tests iotests $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check --quiet --output-format=concise
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary
	@echo $(BIN)/lint-imports
	@report=$$($(BIN)/lint-imports --no-logo) || { echo "$$report"; exit 1; }

format: $(DEV)
	$(BIN)/ruff check --fix --quiet || true
	$(BIN)/ruff format --quiet

demo: $(RUN)
	@$(BIN)/blkxact demo --page demo.html $(IMAGES)

bench: $(DEV) tools
	@$(COMPILE)
	$(BIN)/python -m bench $(ARGS)
	$(BIN)/python bench/bench_granules.py

fuzz: $(FUZZ)
	$(BIN)/python -m fuzz $(TARGET) -max_total_time=$(SECONDS) $(ARGS)

# QEMU's tools, installed where that is possible; the tests that need them are left out elsewhere.
tools:
	@.ci/qemu-tools

$(RUN): pyproject.toml
	@$(MAKE) --no-print-directory $(VENV)/bin/python
	@echo "Installing blkxact and its packages into $(VENV) ..."
	@$(PIP) -e .
	@$(COMPILE)
	@touch $@

$(DEV): pyproject.toml
	@$(MAKE) --no-print-directory $(VENV)/bin/python
	@echo "Installing blkxact and its development tools into $(VENV) ..."
	@$(PIP) -e '.[dev]'
	@$(COMPILE)
	@touch $@ $(RUN)

$(FUZZ): pyproject.toml
	@$(MAKE) --no-print-directory $(VENV)/bin/python
	@echo "Installing blkxact and the fuzzer into $(VENV) ..."
	@$(PIP) -e '.[fuzz]'
	@touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "blkxact needs Python 3.11 or newer (make PYTHON=/path/to/python3)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment (Debian: apt install python3-venv)" >&2; exit 1; }

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
