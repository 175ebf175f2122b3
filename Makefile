# Everything starts from Python 3.11, pip and make: `make demo`, `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := .venv-docs

# What is installed is compiled when it is first imported, and kept, whatever the shell says.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test system matrix lint sweep docs clean

demo: $(READY)
	$(BIN)/python tools/demo.py

# What a change breaks first.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# Emulated devices, browsers, real servers and networks; installs Debian packages where it may.
system: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "system and not matrix"

# Every combination that `make test` and `make system` leave out.
matrix: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m matrix

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sweep: $(READY)
	$(BIN)/python tools/sweep.py

# In an environment of its own, without torch: the sources are read, not imported. A warning is an error.
docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "open site/index.html, or for the search: python -m http.server -d site"

clean:
	rm -rf $(VENV) $(DOCS) build site

# torch goes first and alone: every other package then takes the build that is there.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile 'torch==2.13.*'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $(READY)

# Only what the extra names: pip would install all of edgevit's own dependencies with it.
$(DOCS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > $(DOCS)/requirements.txt
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r $(DOCS)/requirements.txt
	touch $@
