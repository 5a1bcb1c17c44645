import pytest

from finery_shared.models import all_specs
from finery_shared.templates import family, family_of
from tests.fakes.qwen_tokenizer import QWEN_CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (QWEN_CHAT_TEMPLATE, "qwen"),
        (QWEN_CHAT_TEMPLATE.replace("helpful assistant", "helpful assistant."), "qwen2"),
        ("<|im_start|>You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>", "qwen2_5"),
        ("<|im_start|>assistant named SmolLM, trained by Hugging Face<|im_end|>", "smollm2"),
        ("<|im_start|>{{ messages }}<|im_end|>", "chatml"),
        ("<|start_header_id|>", "llama3"),
        ("[INST] {{ messages }} [/INST]", "llama2"),
        ("<|assistant|>\n{{ messages }}<|end|>", "phi3"),
        ("{{ messages }}", "own"),
    ],
)
def test_families_are_told_by_their_marks(template: str, name: str) -> None:
    assert family_of(template).name == name


def test_every_registered_model_has_a_known_template_that_agrees_with_it() -> None:
    for spec in all_specs():
        known = family(spec.template)
        assert known.name == spec.template
        assert known.default_system == spec.default_system
        assert known.stop_tokens == spec.stop_tokens
