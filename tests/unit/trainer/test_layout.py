"""The JSON files of an imported model are those that transformers 4 and 5 read alike."""

from typing import Any

import pytest

from finery_shared.errors import FineryError, Reason
from finery_trainer.model_import.layout import model_config, tokenizer_config, tokenizer_json

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 576,
    "model_type": "llama",
    "rms_norm_eps": 9.999999747378752e-06,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "transformers_version": "5.19.0",
    "_name_or_path": "/tmp/x",
}


def test_the_config_has_the_older_names() -> None:
    written = model_config(CONFIG, rope_theta=100000.0)
    assert written["rope_theta"] == 100000.0
    assert written["rope_scaling"] is None
    assert written["torch_dtype"] == "bfloat16"
    assert written["rms_norm_eps"] == 1e-05
    assert not written.keys() & {"rope_parameters", "dtype", "_name_or_path", "transformers_version"}


@pytest.mark.parametrize("rope", [{}, {"rope_theta": 10000.0}, {"rope_theta": 100000.0, "rope_type": "yarn"}])
def test_another_rotary_embedding_is_refused(rope: dict[str, Any]) -> None:
    with pytest.raises(FineryError) as caught:
        model_config({**CONFIG, "rope_parameters": rope}, rope_theta=100000.0)
    assert caught.value.reason is Reason.MODEL_INVALID


def test_digits_are_split_one_by_one() -> None:
    written = tokenizer_json({"pre_tokenizer": {"type": "ByteLevel"}, "post_processor": {}}, pre_tokenizer="smollm")
    assert written["pre_tokenizer"]["pretokenizers"][0] == {"type": "Digits", "individual_digits": True}
    assert written["post_processor"] is None
    with pytest.raises(FineryError, match="gemma"):
        tokenizer_json({}, pre_tokenizer="gemma")


def test_the_tokenizer_class_is_one_that_both_majors_know() -> None:
    token = {"id": 2, "content": "<|im_end|>", "special": True}
    written = tokenizer_config({"added_tokens": [token]}, {"eos_token": "<|im_end|>"}, max_length=8192)
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["model_input_names"] == ["input_ids", "attention_mask"]
    assert written["added_tokens_decoder"] == {"2": {"content": "<|im_end|>", "special": True}}
    assert written["eos_token"] == "<|im_end|>"
