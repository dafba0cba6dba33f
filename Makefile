# make demo     the whole path on the sample language, from nothing
# make test     the default lane of tests        make slow       the slow lane
# make lint     ruff, mypy on the installed wheel make docs       write the generated pages
# make smoke    the wheel in an environment of its own, runtime packages only
# make lock     resolve requirements.lock anew   make clean      remove what make built
# make test-transformers5             the tests of training and export with transformers 5, in .venv5
# make bench-peers PROJECT=folder [QUICK=1] [PEER_LIST=...] [PROVIDER=cuda]       edgedsl beside llama.cpp and others; environments in PEERS
#
# Everything runs in .venv, which is built from requirements.lock when that or pyproject.toml changes. PYTHON picks the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TYPED := $(VENV)/typed
# --no-compile: a third less time to install; Python compiles what is imported.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
# Few packages over those of .venv: requirements-transformers5.lock.
VENV5 := .venv5
INSTALLED5 := $(VENV5)/.installed
# What computes with transformers, or reads what it writes; tests that need optimum's graph skip themselves.
TESTS5 := $(addprefix tests/test_,$(addsuffix .py,basemodels candidates exporters fused_exporter gptq hops load \
  prefix quantize smoothing tokenizer torch_decoder training untuned w8a8))
PROJECT ?= demo
PEERS ?= .peers

.PHONY: bench-peers demo test slow test-transformers5 lint wheel smoke docs docs-check lock clean
.DEFAULT_GOAL := test

$(INSTALLED): requirements.lock pyproject.toml setup.py $(wildcard edgedsl/runtime/kernels/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "edgedsl needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) -r requirements.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/edgedsl demo --json

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not gpu" --timeout 1800

$(INSTALLED5): requirements-transformers5.lock packaging/transformers5.sh $(INSTALLED)
	PYTHON=$(BIN)/python packaging/transformers5.sh $(VENV5)
	@touch $@

test-transformers5: $(INSTALLED5)
	$(VENV5)/bin/python -m pytest $(TESTS5)

# Type checkers do not see the folder mapping of pyproject.toml in the source tree, so mypy reads the wheel's files.
lint: wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf $(TYPED)
	$(PIP_INSTALL) --no-deps --target $(TYPED) dist/edgedsl-*.whl
	cd $(TYPED) && ../bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p edgedsl

# build/ is removed first: setuptools would pack what a deleted module left there.
wheel: $(INSTALLED)
	@rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build

smoke: wheel
	PYTHON=$(abspath $(BIN)/python) packaging/smoke.sh dist/edgedsl-*.whl

docs: $(INSTALLED)
	$(BIN)/python docs/generate_cli.py

docs-check: $(INSTALLED)
	$(BIN)/python docs/generate_cli.py --check

# Its last line of output is one JSON object of the ratios. The first time it makes the peers' environments, which takes long.
bench-peers: $(INSTALLED)
	$(BIN)/python -m edgedsl.bench.peers all --project $(PROJECT) --folder $(PEERS) \
	  $(if $(PEER_LIST),--peers $(PEER_LIST)) $(if $(PROVIDER),--execution-provider $(PROVIDER)) $(if $(QUICK),--quick)
	$(if $(QUICK),,$(BIN)/python -m edgedsl.bench.table)

lock:
	PYTHON=$(PYTHON) packaging/lock.sh

clean:
	rm -rf $(VENV) $(VENV5) build dist edgedsl.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
