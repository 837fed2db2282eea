# From a fresh clone, with only python3, pip and make: `make demo`, `make test`.

PYTHON ?= python3
VENV ?= .venv
# Pinned so that no build for another machine is pulled by accident; empty: no torch.
TORCH ?= torch==2.13.0

# Tests run in so many processes, each with one thread: more would wait for one another.
JOBS ?= 2
pytest = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -q -n $(JOBS)

BIN := $(VENV)/bin
# What `make test-isa` runs once for each level of instructions, which a GPU has not.
ISA_TESTS ?= tests/kernels tests/quantized/test_kernels.py \
             tests/quantized/test_backend.py tests/quantized/test_tree_kernels.py \
             --ignore=tests/kernels/cuda --ignore=tests/kernels/triton
# The floors of pyproject.toml, for `make test-oldest` (Python 3.11 or 3.12).
OLDEST := numpy==2.0.2 scipy==1.13.1 scikit-learn==1.6.1 numba==0.61.0 \
          pandas==2.2.3 matplotlib==3.9.4 pyparsing==3.2.3 \
          polars==1.17.1
OLDEST_VENV ?= .venv-oldest

# One resolver call, so that torch and the library agree on their dependencies.
install = $(BIN)/python -m pip install $(if $(strip $(TORCH)),"$(TORCH)") \
          -e ".[plot]" $(1)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-isa test-oldest doctest lint format docs bench gpu bench-data clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## intervals on real data: one table, one figure
	UQLIB_FIGURE=first_intervals.png MPLBACKEND=Agg \
	  $(BIN)/python examples/plot_01_first_intervals.py

test: $(VENV)/.test ## every test but those marked slow
	$(call pytest,$(VENV)) -m "not slow"

test-all: $(VENV)/.test doctest ## every test and every example in the documentation
	$(call pytest,$(VENV))

test-oldest: $(OLDEST_VENV)/.test ## the tests on the oldest supported versions
	$(call pytest,$(OLDEST_VENV)) -m "not slow"

test-isa: $(VENV)/.test ## the kernels at every level of instructions of this machine
	@for level in $$($(BIN)/python -c \
	  'from uqlib_kernels.registry import available_isas; print(*available_isas())'); \
	do echo "UQLIB_ISA=$$level"; export UQLIB_ISA=$$level; \
	  $(call pytest,$(VENV)) -m "not slow" $(ISA_TESTS) || exit 1; done

doctest: $(VENV)/.test ## the examples in docstrings, user guide and README
	$(BIN)/python -m pytest -q --doctest-modules uqlib kernels/uqlib_kernels \
	  --ignore-glob='*/triton_twins/_torch_*'
	$(BIN)/python -m pytest -q --doctest-glob='*.rst' --doctest-glob='*.md' \
	  docs README.md

lint: $(VENV)/.lint ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.lint ## rewrite the code in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.doc ## build the documentation; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.bench ## ratios against the peers
	$(BIN)/python tests/benchmarks/run.py

gpu: ## on a machine with a GPU: build its kernels, check and time them
	PYTHONPATH=.:kernels $(PYTHON) tests/benchmarks/gpu.py

bench-data: $(VENV)/.bench ## losses and coverage on real data; an hour
	cd tests/benchmarks && PYTHONPATH=../..:../../kernels \
	  ../../$(BIN)/python -W ignore quantile_systems.py --folder ../../.benchmarks
	PYTHONPATH=.:kernels $(BIN)/python -W ignore tests/benchmarks/uncertainty_tables.py
	PYTHONPATH=.:kernels $(BIN)/python -W ignore tests/benchmarks/quantization_tables.py

clean: ## remove what the targets made, the environments excepted
	rm -rf build dist docs/_build docs/auto_examples docs/generated \
	  docs/sg_execution_times.rst first_intervals.png \
	  .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find uqlib kernels tests docs examples -name __pycache__ -prune -exec rm -rf {} +

# Stamps: an environment is installed again only when pyproject.toml changes.

%/.pip:
	@$(PYTHON) -m venv $* || { echo; echo "uqlib: '$(PYTHON) -m venv' failed:\
	 install the python3-venv package, then run make again." >&2; exit 1; }
	$*/bin/python -m pip install -U "pip>=25.1"
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml
	$(call install)
	@touch $@

$(VENV)/.test: $(VENV)/.pip pyproject.toml
	$(call install,--group test)
	@touch $(VENV)/.demo $@

$(VENV)/.doc: $(VENV)/.pip pyproject.toml
	$(call install,--group doc)
	@touch $(VENV)/.demo $@

$(VENV)/.lint: $(VENV)/.pip pyproject.toml
	$(call install,--group lint)
	@touch $(VENV)/.demo $@

# TorchCP without what it requires: a compiler, graphs and language models. Its label
# scores need none of it; without it their cases are left out.
$(VENV)/.bench: $(VENV)/.pip pyproject.toml
	$(call install,--group bench)
	-$(BIN)/python -m pip install --no-deps torchcp
	@touch $(VENV)/.demo $@

$(OLDEST_VENV)/.test: $(OLDEST_VENV)/.pip pyproject.toml
	$(OLDEST_VENV)/bin/python -m pip install $(OLDEST) -e ".[plot]" --group test
	@touch $@

.PRECIOUS: %/.pip
