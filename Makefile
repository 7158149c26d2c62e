# `make quickstart`: install, then train on MNIST for two minutes and draw digits.
# `make test`: install with the test extra, then run the whole suite.
# `make docs`: build the documentation site into site/; a broken link is an error.
# `make notebooks`: execute examples/*.ipynb and store their outputs, after a change of their code.
# `make matrix`: the core tests in every Python from 3.10 to 3.13 that is installed (by hand).
# `make torture`: the long fault campaign, the long fuzzing (docs/reliability.md), and the commands
# of README and docs that take long.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test docs notebooks matrix torture lint clean

quickstart: $(VENV)/.installed
	$(BIN)/pocketddpm quickstart

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "wrote site/; to read it: $(BIN)/python -m http.server -d site"

notebooks: $(VENV)/.installed-notebooks
	$(BIN)/python scripts/notebooks.py

matrix:
	$(PYTHON) scripts/matrix.py

torture: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 -m torture

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable ".[docs]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-notebooks: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable ".[notebooks]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist site *.egg-info src/*.egg-info .pytest_cache .ruff_cache
