# Two commands do everything: `make demo` and `make test`. Both build their own environment in .venv first.
PYTHON   ?= python3
DURATION ?=
SECONDS  ?= 20
FULL     ?=
VENV     := .venv
BIN      := $(VENV)/bin
STAMP    := $(VENV)/.installed
PIP      := $(BIN)/python -m pip --disable-pip-version-check --quiet
BENCHES   = $(shell grep -l "^from report import" benchmarks/*.py)
LOCK      = uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --custom-compile-command "make lock"

.PHONY: help setup demo test prove fuzz style docs bench bundle lock clean
.DELETE_ON_ERROR:

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(STAMP)  ## build .venv (PYTHON=python3.12 names another interpreter); no time when it is up to date

# pip refuses an editable project beside hashes: the pinned requirements first, then the project alone.
$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "genba needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "building $(VENV) (once, about a minute)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## simulated plant, broker and gateway on the terminal; DURATION=45 ends by itself with a summary
	@$(BIN)/genba demo $(if $(DURATION),--duration $(DURATION)s)

test: $(STAMP) style  ## everything that CI checks; the last line is pytest's
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

prove: $(STAMP)  ## nothing acknowledged is ever lost, in about an hour; QUICK=1 in 5 minutes, SEED=7, DOCS=1 writes the table of docs/reliability.md
	@$(BIN)/python -m tests.prove $(if $(QUICK),--quick) $(if $(SEED),--seed $(SEED)) $(if $(DOCS),--docs) $(PROVE_ARGS)

fuzz: $(STAMP)  ## every decoder for SECONDS=20, coverage-guided where atheris has a wheel; then a week of dead devices in virtual time
	@mkdir -p build
	@if $(BIN)/python -c "import atheris" 2>/dev/null; then $(BIN)/python -m tests.fuzz.coverage --seconds $(SECONDS) 2>build/fuzz.log; \
		else echo "atheris has no wheel for this machine: hypothesis alone"; $(BIN)/python -m pytest -q tests/fuzz; fi
	@GENBA_DAY_S=86400 $(BIN)/python -m pytest -q --timeout 3600 -k closed tests/simulation
	@GENBA_DAY_S=3600 $(BIN)/python -m pytest -q --timeout 3600 -k "not closed" tests/simulation

style: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python docs/reference.py --check
	@$(BIN)/lint-imports --no-logo > $(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

docs: $(STAMP)  ## write docs/reference, configuration and errors anew from the configuration classes
	@$(BIN)/python docs/reference.py
	@$(BIN)/python -m gateway.config.reference

bench: $(STAMP)  ## every benchmark, quick; FULL=1 for the published figures; JSON in build/bench
	@mkdir -p build/bench
	@set -e; for script in $(BENCHES); do echo "== $$script"; \
		$(BIN)/python $$script $(if $(FULL),,--quick) --json build/bench/$$(basename $$script .py).json; done

bundle: $(STAMP)  ## dist/genba-…tar.gz: installs on a machine without network
	@$(BIN)/python deploy/build_bundle.py

lock: requirements/runtime.in requirements/dev.in  ## pin the requirements anew, with hashes; a plant gets the versions that were tested
	@rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip --disable-pip-version-check --quiet install uv
	@build/lock/bin/$(LOCK) $(if $(UPGRADE),--upgrade) requirements/dev.in -o requirements/dev.txt
	@build/lock/bin/$(LOCK) $(if $(UPGRADE),--upgrade) --constraint requirements/dev.txt requirements/runtime.in -o requirements/runtime.txt

clean:  ## remove everything that was made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis lake spool tests/interop/node_modules
