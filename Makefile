# Two commands on a fresh machine: `make demo` and `make test`. Needs git, make and Python 3.11+.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

# Ray starts a process per worker and imports torch in each: without compiled bytecode each takes 2.5 times longer.
unexport PYTHONDONTWRITEBYTECODE
export RAY_USAGE_STATS_ENABLED = 0
export MLFLOW_DISABLE_TELEMETRY = true

# Two processes, of which one has all the tests that need Ray.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: setup demo test test-slow lint bench k8s-check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --group dev --constraint constraints.txt --editable .
	touch $@

demo: setup
	$(BIN)/python -m jobs.demo demo

test: setup lint
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

k8s-check: setup
	$(BIN)/python -m k8s.check --crds "$(CRDS)"

bench: setup
	$(BIN)/python -m bench.loop
	$(BIN)/python -m bench.feed
	$(BIN)/python -m bench.data
	$(BIN)/python -m bench.order
	$(BIN)/python -m bench.augment
	$(BIN)/python -m bench.remote
	$(BIN)/python -m bench.scale
	$(BIN)/python -m bench.start
	$(BIN)/python -m bench.metrics
	$(BIN)/python -m bench.losses
	$(BIN)/python -m bench.models
	$(BIN)/python -m bench.optimised

clean:
	rm -rf $(VENV) demo runs
