# Two commands do everything: `make demo` and `make test`. Both build their own environment in .venv.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
DURATION ?=
DATA    ?=

.PHONY: setup demo test check-style bench bundle lock docs clean

setup: $(STAMP)

# pip refuses an editable project beside hashes: the pinned requirements first, then the project alone.
$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "genba needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/genba demo $(if $(DURATION),--duration $(DURATION)s)

test: $(STAMP) check-style
	$(BIN)/python -m pytest

check-style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache lake spool
