"""A model's directory alone is enough; what is not a whole chat model is refused with a remedy."""

import json
from pathlib import Path

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import from_path, get

from .conftest import ModelWriter


def refusal(path: Path, model_type: str | None = None) -> FineryError:
    with pytest.raises(FineryError) as caught:
        from_path(path, model_type)
    return caught.value


def test_everything_is_read_from_the_directory(write_model: ModelWriter) -> None:
    spec = from_path(write_model("my-model"))
    assert spec.model_type == "my-model"
    assert (spec.family, spec.architecture) == ("qwen2", "Qwen2ForCausalLM")
    assert spec.template == "chatml"
    assert spec.stop_tokens == ("<|im_end|>",)
    assert spec.default_system is None
    assert (spec.max_model_len, spec.group_size, spec.quantized) == (4096, 128, False)
    assert (spec.hf_id, spec.ms_id) == (None, None)


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("LlamaForCausalLM", "llama"), ("Qwen3ForCausalLM", "qwen3"), ("Phi3ForCausalLM", "phi3")],
)
def test_known_architectures(write_model: ModelWriter, architecture: str, family: str) -> None:
    assert from_path(write_model(config={"architectures": [architecture]})).family == family


def test_phi3_has_other_linear_layers(write_model: ModelWriter) -> None:
    spec = from_path(write_model(config={"architectures": ["Phi3ForCausalLM"]}))
    assert spec.targets.select(["ALL"]) == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def test_template_in_a_file_of_its_own_wins(write_model: ModelWriter) -> None:
    path = write_model()
    (path / "chat_template.jinja").write_text("<|start_header_id|>{{ messages }}<|eot_id|>")
    spec = from_path(path)
    assert spec.template == "llama3"
    assert spec.stop_tokens == ("<|eot_id|>", "<|end_of_text|>", "<|im_end|>")


def test_named_templates_and_token_objects(write_model: ModelWriter) -> None:
    named = [{"name": "tool_use", "template": "[INST]"}, {"name": "default", "template": "<start_of_turn>"}]
    spec = from_path(write_model(tokenizer={"chat_template": named, "eos_token": {"content": "<eos>"}}))
    assert spec.template == "gemma"
    assert spec.stop_tokens == ("<end_of_turn>", "<eos>")


def test_a_template_of_no_known_family_keeps_its_eos(write_model: ModelWriter) -> None:
    spec = from_path(write_model(tokenizer={"chat_template": "{{ messages }}", "eos_token": "<stop>"}))
    assert (spec.template, spec.stop_tokens) == ("own", ("<stop>",))


def test_the_template_says_how_tools_are_called(write_model: ModelWriter) -> None:
    assert from_path(write_model("plain")).tool_parser is None
    template = "<|im_start|>{% if tools %}<tool_call>{{ tool.arguments }}{% endif %}<|im_end|>"
    path = write_model("qwen1half-7b-chat", tokenizer={"chat_template": template, "eos_token": "<|im_end|>"})
    assert from_path(path).tool_parser == "hermes"
    assert from_path(path, "qwen1half-7b-chat").tool_parser == "hermes"
    assert get("qwen1half-7b-chat").tool_parser is None


def test_quantized_is_told_from_the_config(write_model: ModelWriter) -> None:
    assert from_path(write_model(config={"quantization_config": {"quant_method": "awq", "bits": 4}})).quantized


def test_registered_model_type_brings_its_recipe_and_names(write_model: ModelWriter) -> None:
    path = write_model("checkpoint-93-merged-awq-int4", config={"quantization_config": {"bits": 4}})
    spec = from_path(path, "qwen1half-7b-chat")
    known = get("qwen1half-7b-chat")
    assert (spec.model_type, spec.hf_id, spec.identity) == (known.model_type, known.hf_id, known.identity)
    assert spec.quantized
    assert spec.shape.hidden_size == 128


@pytest.mark.parametrize("place", ["qwen1half-7b-chat", "models--Qwen--Qwen1.5-7B-Chat/snapshots/0123abcd"])
def test_a_directory_called_as_a_registered_model_is_taken_for_it(write_model: ModelWriter, place: str) -> None:
    assert from_path(write_model(place)).model_type == "qwen1half-7b-chat"


def test_a_name_alone_does_not_make_another_architecture_a_registered_model(write_model: ModelWriter) -> None:
    spec = from_path(write_model("smollm2-135m-instruct"))
    assert (spec.model_type, spec.family, spec.hf_id) == ("smollm2-135m-instruct", "qwen2", None)


def test_hugging_faces_cache_names_its_directories_by_commit(write_model: ModelWriter) -> None:
    assert from_path(write_model("models--someone--Their-Chat/snapshots/0123abcd")).model_type == "Their-Chat"


def test_other_model_type_is_a_name_only(write_model: ModelWriter) -> None:
    assert from_path(write_model(), "mine").model_type == "mine"


def test_wrong_model_type(write_model: ModelWriter) -> None:
    error = refusal(write_model(), "smollm2-135m-instruct")
    assert error.reason is Reason.INVALID_ARGUMENT
    assert "holds a Qwen2ForCausalLM, but smollm2-135m-instruct is a LlamaForCausalLM" in error.message


def test_no_directory(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")
    assert error.reason is Reason.FILE_MISSING
    assert str(tmp_path / "nowhere") in error.message


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("config.json", "no config.json: pass a whole Hugging Face model directory"),
        ("tokenizer.json", "no tokenizer"),
        ("tokenizer_config.json", "no tokenizer_config.json"),
        ("model.safetensors", "no safetensors weights: convert them"),
    ],
)
def test_missing_parts(write_model: ModelWriter, left_out: str, message: str) -> None:
    error = refusal(write_model(leave_out=(left_out,)))
    assert error.reason is Reason.MODEL_INVALID
    assert message in error.message


def test_no_chat_template(write_model: ModelWriter) -> None:
    error = refusal(write_model(tokenizer={"chat_template": None}))
    assert error.reason is Reason.MODEL_INVALID
    assert "no chat template" in error.message
    assert "use the chat or instruct version" in error.message


def test_pickled_weights_are_refused_by_name(write_model: ModelWriter) -> None:
    path = write_model(leave_out=("model.safetensors",))
    (path / "pytorch_model.bin").touch()
    assert "found pytorch_model.bin" in refusal(path).message


def test_missing_shard(write_model: ModelWriter) -> None:
    path = write_model()
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    error = refusal(path)
    assert error.reason is Reason.MODEL_INVALID
    assert "lacks model-00002-of-00002.safetensors" in error.message


def test_unknown_architecture(write_model: ModelWriter) -> None:
    error = refusal(write_model(config={"architectures": ["MambaForCausalLM"]}))
    assert error.reason is Reason.UNSUPPORTED
    assert "MambaForCausalLM" in error.message
    assert "Qwen2ForCausalLM" in error.message


def test_config_without_architectures_names_its_model_type(write_model: ModelWriter) -> None:
    error = refusal(write_model(config={"architectures": None, "model_type": "t5"}))
    assert error.reason is Reason.UNSUPPORTED
    assert "model_type 't5'" in error.message


def test_broken_config(write_model: ModelWriter) -> None:
    path = write_model()
    (path / "config.json").write_text("{")
    assert "not valid JSON" in refusal(path).message


def test_an_adapter_is_not_a_model(write_model: ModelWriter) -> None:
    path = write_model(leave_out=("config.json",))
    (path / "adapter_config.json").write_text("{}")
    error = refusal(path)
    assert error.reason is Reason.MODEL_INVALID
    assert "--ckpt_dir" in error.message
