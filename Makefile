# `make` shows the targets. Arguments go through ARGS: make up ARGS="--generators 2 --port 9000"
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := $(VENV)/bin/python
EXTRAS := gateway,tokenizer,retriever,cache,generator,local,training,test,check
ARGS ?=
# a machine without a GPU takes the small build of torch from here, for example
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

.PHONY: help
help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort \
	  | while IFS=$$'\t' read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: $(VENV)/.stamp  ## make .venv with everything that up, test and check need

$(VENV)/.stamp: pyproject.toml constraints.txt
	@python=""; \
	for each in python3.12 python3.11 python3; do \
	  if $$each -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; \
	  then python=$$each; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make setup: needs Python 3.11 or 3.12 (python3.12, python3.11 or python3)" >&2; exit 1; \
	fi; \
	[ -x $(PYTHON) ] || $$python -m venv $(VENV)
	$(PYTHON) -m pip install --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  -c constraints.txt -e '.[$(EXTRAS)]'
	$(PYTHON) -m services.generator.backend.cpu.native.compiler
	@$(VENV)/bin/infermesh pull smollm2-135m-instruct \
	  || echo 'make setup: goes on without SmolLM2; later: infermesh pull smollm2-135m-instruct'
	@touch $@

.PHONY: up
up: setup  ## start everything in the foreground; ARGS="--generators 2"
	@exec $(VENV)/bin/infermesh up $(ARGS)

# pytest-xdist's workers: each core takes one, WORKERS=0 runs all tests in pytest's own process
WORKERS ?= auto
PYTEST := $(PYTHON) -m pytest -n $(WORKERS) --maxprocesses 4
# of our kernels; torch takes none. `all` are those of this processor
LEVELS ?= avx2
# OpenBLAS, torch and oneDNN as on a processor of that level
libraries_avx2 := OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
libraries_avx512 := ONEDNN_MAX_CPU_ISA=AVX512_CORE
libraries_avx512_vnni := ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI

.PHONY: test
test: setup  ## run the tests but the slow ones; ARGS="tests/cache -k lookup"
	$(PYTEST) -m "not slow and not models" $(ARGS)

.PHONY: test-levels
test-levels: setup  ## run the engine's tests as on a processor with AVX2 alone; LEVELS=all for each
	$(foreach level,$(if $(filter all,$(LEVELS)),$(shell $(PYTHON) -c "$(LIST_LEVELS)"),$(LEVELS)),\
	  $(libraries_$(level)) INFERMESH_GENERATOR_CPU_LEVEL=$(level) \
	  $(PYTEST) -m "not slow" tests/generator $(ARGS) &&) true

LIST_LEVELS := from services.generator.backend.cpu.native import levels; \
  print(levels.TORCH, *(each.name for each in levels.available()))

.PHONY: test-arm
test-arm: setup  ## run the tests of CPU kernels on an emulated ARM processor
	@if command -v aarch64-linux-gnu-g++ > /dev/null && command -v qemu-aarch64 > /dev/null; then \
	  TEST_PROCESSOR=aarch64 $(PYTEST) tests/generator/backend/cpu $(ARGS); \
	else \
	  echo "test-arm: skipped, needs aarch64-linux-gnu-g++ and qemu-aarch64" \
	    "(Debian: g++-aarch64-linux-gnu qemu-user)"; \
	fi

.PHONY: test-all
test-all: setup  ## run all tests, at all levels and on ARM, and the long schedules: before a release
	$(PYTEST) -m "not models"
	$(MAKE) --no-print-directory test-levels LEVELS=all
	$(MAKE) --no-print-directory test-arm schedules

# one process: each loads a model of its own
.PHONY: test-models
test-models: setup  ## fetch real models (300 MB, Gemma's terms) and test them against transformers
	$(PYTHON) -m tests.models.fetch
	$(PYTHON) -m pytest -n 0 -m models tests/models $(ARGS)

.PHONY: check
check: setup  ## lint, format, types, layers, fresh generated code
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(MAKE) --no-print-directory check-proto
	$(VENV)/bin/mypy

.PHONY: check-proto
check-proto: setup
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(MAKE) --no-print-directory proto OUT="$$fresh"; \
	diff -r -x __init__.py -x __pycache__ "$$fresh/mesh/pb" mesh/pb \
	  || { echo "mesh/pb is not what proto/ says: make proto" >&2; exit 1; }

.PHONY: fmt
fmt: setup  ## format, and fix what lint can fix
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# the mapped include makes the generated modules import each other as mesh.pb
OUT ?= .
.PHONY: proto
proto: setup  ## generate mesh/pb from proto/
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PYTHON) -m grpc_tools.protoc -Imesh/pb=proto \
	  --python_out=$(OUT) --grpc_python_out=$(OUT) --pyi_out=$(OUT) \
	  --mypy_grpc_out=quiet:$(OUT) proto/*.proto

.PHONY: bench
bench: setup  ## measure the engine, its scheduler and the mesh
	$(PYTHON) -m bench.engine --shapes smollm-135m --output bench/results/engine-alone.json \
	  --subjects infermesh generate_batch generate
	$(PYTHON) -m bench.batching
	$(PYTHON) -m bench.prefix
	$(PYTHON) -m bench.pace
	$(PYTHON) -m bench.mesh

.PHONY: bench-service
bench-service: setup  ## measure the whole stack under load; ARGS="--rates 11.6"
	$(PYTHON) -m bench.service $(ARGS)

.PHONY: bench-peers
bench-peers: setup  ## install other engines in environments of their own and compare; long
	TORCH_INDEX=$(TORCH_INDEX) $(PYTHON) -m bench.engine $(ARGS)

.PHONY: schedules
schedules: setup  ## run the scheduler through ten thousand random schedules
	SCHEDULES=10000 $(PYTHON) -m pytest --timeout=0 --hypothesis-show-statistics \
	  tests/generator/engine/scheduling/test_random_schedules.py $(ARGS)

.PHONY: soak
soak: setup  ## five thousand random requests; blocks, outcomes and memory must add up
	$(PYTHON) -m bench.soak $(ARGS)

# SEED repeats a run, `--case N` one of its cases: make fuzz SEED=7 ARGS="--case 36"
CASES ?= 20000
SEED ?=
.PHONY: fuzz
fuzz: setup  ## throw CASES=20000 generated requests at a gateway; SEED=7 repeats
	$(PYTHON) -m tests.e2e.fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: test-compose
test-compose: setup  ## build the images, run the end-to-end check against them
	infra/test-compose.sh $(ARGS)

.PHONY: train
train: setup  ## train the bundled model anew
	$(PYTHON) -m training $(ARGS)

.PHONY: clean
clean:  ## remove what make and the tests made; .venv and .infermesh stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
