# Everything runs in .venv, which is made on first use and brought up to date only
# when pyproject.toml, constraints.txt or the version change.
#
#   make PYTHON=/path/to/python3.12 test     chooses the Python
#   make test ARGS="-m slow tests/noise"     passes arguments on to pytest

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs clean

PYTHON ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
MADE := $(VENV)/.made
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs
INPUTS := pyproject.toml constraints.txt src/hushgrad/_version.py
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

help:  ## list what make can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## train on the bundled digits, privately
	$(BIN)/hushgrad train digits

test: $(INSTALLED_DEV)  ## run the tests; ARGS="..." goes to pytest
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED_DEV)  ## ruff check, ruff format --check, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED_DEV)  ## let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED_DOCS)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

clean:  ## remove .venv, caches and build artefacts; runs/ stays
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis .jax_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A .venv that is there is kept if it will do. Else: the first Python that is new enough
# and can make one. Trying it is the only test: a name on the PATH may be a stand-in for a
# version that is not there.
$(MADE):
	@if [ -e $(VENV) ]; then \
	  if $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    touch $@; exit 0; \
	  fi; \
	  echo "error: $(VENV) is there, but is no virtual environment with pip and Python 3.11" >&2; \
	  echo "or newer; 'make clean' removes it" >&2; exit 1; \
	fi; \
	bare=; seen=; \
	for python in $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11); do \
	  version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  seen="$$seen $$python ($$version)"; \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || continue; \
	  if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then bare="$${bare:-$$python}"; continue; fi; \
	  echo "making $(VENV) with $$python ($$version)"; \
	  "$$python" -m venv $(VENV) && touch $@ && exit 0; \
	  rm -rf $(VENV); echo "error: '$$python -m venv $(VENV)' failed (see above)" >&2; exit 1; \
	done; \
	if [ -n "$$bare" ]; then \
	  echo "error: $$bare is new enough, but its venv module lacks ensurepip, so it cannot make" >&2; \
	  echo "a virtual environment with pip. On Debian and Ubuntu: apt install python3-venv" >&2; \
	else \
	  echo "error: hushgrad needs Python 3.11 or newer; found:$${seen:- none}" >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	fi; exit 1

$(INSTALLED): $(MADE) $(INPUTS)
	@echo "installing hushgrad into $(VENV)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(INSTALLED_DEV): $(MADE) $(INPUTS)
	@echo "installing hushgrad and its development tools into $(VENV)"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(INSTALLED) $@

$(INSTALLED_DOCS): $(MADE) $(INPUTS)
	@echo "installing hushgrad and what builds its documentation into $(VENV)"
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $(INSTALLED) $@
