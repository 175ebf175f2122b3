# Everything starts from Python 3.11, pip and make: `make demo`, `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# What is installed is compiled when it is first imported, and kept, whatever the shell says.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test matrix lint sweep clean

demo: $(READY)
	$(BIN)/python tools/demo.py

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# Every combination that `make test` leaves out.
matrix: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m matrix

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sweep: $(READY)
	$(BIN)/python tools/sweep.py

clean:
	rm -rf $(VENV) build

# torch goes first and alone: every other package then takes the build that is there.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile 'torch==2.13.*'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $(READY)
