# make demo [SOURCE=file], make test, make sanitize, make lint, make bench, make docs. Each makes what it needs.
# PYTHON is the interpreter the virtual environment is made from; VENV is where it lies.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh') setup.py pyproject.toml
CSRC := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test sanitize lint bench docs install clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes in first and alone: nothing installed later may then pull another build of it.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt torch==2.13.0
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(NATIVE) constraints.txt
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) install --quiet -c constraints.txt -e '.[dev,bench]'
	@touch $@

# The demo keeps to an environment of its own, without the tools of developers.
DEMO := .demo/venv
$(DEMO)/bin/python:
	$(PYTHON) -m venv $(DEMO)

$(DEMO)/.installed: $(NATIVE) constraints.txt | $(DEMO)/bin/python
	$(DEMO)/bin/pip --disable-pip-version-check install --quiet -c constraints.txt -e '.[demo]'
	@touch $@

install: $(VENV)/.dev

demo: $(DEMO)/.installed
	$(DEMO)/bin/python -m demo --work .demo $(if $(SOURCE),'$(SOURCE)')

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 $(ARGS)

sanitize: $(VENV)/.dev
	VENV=$(VENV) .ci/sanitize

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(CSRC),$(BIN)/clang-format --dry-run -Werror $(CSRC))

bench: $(VENV)/.bench
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

clean:
	rm -rf build .demo *.egg-info
