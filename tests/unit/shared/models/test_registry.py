"""The registry's entries, checked as data: ids, sizes, group sizes."""

import dataclasses

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import all_specs, find, get

# hidden size, intermediate size, layers, heads, key-value heads: the published configurations
QWEN_SIZES = {
    "0_5b": (1024, 2816, 24, 16, 16),
    "1_8b": (2048, 5504, 24, 16, 16),
    "4b": (2560, 6912, 40, 20, 20),
    "7b": (4096, 11008, 32, 32, 32),
    "14b": (5120, 13696, 40, 40, 40),
    "32b": (5120, 27392, 64, 40, 8),
    "72b": (8192, 24576, 80, 64, 64),
    "110b": (8192, 49152, 80, 64, 8),
}
# parameters in billions, embeddings included, from the model cards
QWEN_PARAMETERS = {
    "0_5b": 0.464,
    "1_8b": 1.84,
    "4b": 3.95,
    "7b": 7.72,
    "14b": 14.2,
    "32b": 32.5,
    "72b": 72.3,
    "110b": 111,
}


@pytest.mark.parametrize("size", QWEN_SIZES)
@pytest.mark.parametrize("suffix", ["", "-awq"])
def test_qwen_sizes(size: str, suffix: str) -> None:
    spec = get(f"qwen1half-{size}-chat{suffix}")
    shape = spec.shape
    assert (shape.hidden_size, shape.intermediate_size, shape.layers, shape.heads, shape.kv_heads) == QWEN_SIZES[size]
    assert spec.architecture == "Qwen2ForCausalLM"
    assert spec.template == "qwen"
    assert spec.max_model_len == 32768
    assert spec.stop_tokens == ("<|im_end|>", "<|endoftext|>")
    assert spec.quantized == bool(suffix)


@pytest.mark.parametrize("size", QWEN_SIZES)
def test_qwen_sizes_add_up_to_the_published_parameter_counts(size: str) -> None:
    shape = get(f"qwen1half-{size}-chat").shape
    key_value = shape.kv_heads * shape.hidden_size // shape.heads
    attention = shape.hidden_size * (2 * shape.hidden_size + 2 * key_value)
    mlp = 3 * shape.hidden_size * shape.intermediate_size
    copies = 1 if size == "0_5b" else 2  # the smallest ties its embeddings
    embeddings = copies * shape.vocab_size * shape.hidden_size
    billions = (shape.layers * (attention + mlp) + embeddings) / 1e9
    assert billions == pytest.approx(QWEN_PARAMETERS[size], rel=0.01)


@pytest.mark.parametrize(
    ("model_type", "hf_id", "ms_id"),
    [
        ("qwen1half-7b-chat", "Qwen/Qwen1.5-7B-Chat", "qwen/Qwen1.5-7B-Chat"),
        ("qwen1half-0_5b-chat-awq", "Qwen/Qwen1.5-0.5B-Chat-AWQ", "qwen/Qwen1.5-0.5B-Chat-AWQ"),
        ("qwen1half-72b-chat-awq", "Qwen/Qwen1.5-72B-Chat-AWQ", "qwen/Qwen1.5-72B-Chat-AWQ"),
        (
            "smollm2-135m-instruct",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        ("smollm2-1_7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    ],
)
def test_hub_ids(model_type: str, hf_id: str, ms_id: str) -> None:
    spec = get(model_type)
    assert (spec.hf_id, spec.ms_id) == (hf_id, ms_id)


def test_group_size_divides_every_input() -> None:
    for spec in all_specs():
        assert spec.group_size is not None
        assert all(width % spec.group_size == 0 for width in spec.shape.input_sizes), spec.model_type


def test_group_sizes_that_were_measured() -> None:
    assert get("smollm2-135m-instruct").group_size == 64
    assert {spec.group_size for spec in all_specs() if spec.family == "qwen1half"} == {128}


def test_names_and_ids_are_unique() -> None:
    for field in ("model_type", "hf_id", "ms_id"):
        values = [getattr(spec, field) for spec in all_specs()]
        assert len(set(values)) == len(values), field


def test_every_spec_tells_a_default_system_prompt_and_who_the_base_model_is() -> None:
    for spec in all_specs():
        assert spec.default_system
        assert spec.identity
        assert spec.shape.hidden_size % spec.shape.heads == 0
        assert spec.shape.heads % spec.shape.kv_heads == 0


@pytest.mark.parametrize(
    "name", ["qwen1half_7b_chat", "QWEN1HALF-7B-CHAT", "Qwen/Qwen1.5-7B-Chat", "qwen/Qwen1.5-7B-Chat"]
)
def test_names_are_found_as_users_write_them(name: str) -> None:
    spec = find(name)
    assert spec is not None
    assert spec.model_type == "qwen1half-7b-chat"


def test_unknown_name_gets_near_matches() -> None:
    with pytest.raises(FineryError) as caught:
        get("qwen1half-7b-chatt")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert "qwen1half-7b-chat" in caught.value.message
    assert "--model_id_or_path" in caught.value.message


def test_a_name_like_nothing_gets_no_far_fetched_match() -> None:
    with pytest.raises(FineryError) as caught:
        get("zzzz")
    assert "Did you mean" not in caught.value.message


def test_specs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("smollm2-135m-instruct").template = "other"  # type: ignore[misc]


def test_target_modules() -> None:
    targets = get("qwen1half-7b-chat").targets
    assert targets.select(["ALL"]) == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert targets.select([]) == targets.all
    assert targets.select(["DEFAULT"]) == ("q_proj", "k_proj", "v_proj")
    assert targets.select(["default", "o_proj", "q_proj"]) == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_target_module_that_the_model_lacks() -> None:
    with pytest.raises(FineryError, match="no linear layer 'c_attn'") as caught:
        get("qwen1half-7b-chat").targets.select(["c_attn"])
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert caught.value.metadata == {"field": "lora_target_modules"}
