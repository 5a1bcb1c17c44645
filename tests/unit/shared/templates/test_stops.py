from finery_shared.templates import ChatTokenizer, default_system, stop_token_ids

from .templated import Templated


def test_stop_tokens(qwen: ChatTokenizer, smollm2: ChatTokenizer) -> None:
    assert stop_token_ids(qwen) == (151645, 151643)
    assert stop_token_ids(smollm2) == (2,)


def test_extra_stop_tokens_that_the_vocabulary_lacks_are_left_out(qwen: ChatTokenizer) -> None:
    assert stop_token_ids(qwen, ["<|im_start|>", "<|nowhere|>"]) == (151645, 151643, 151644)


def test_default_system_prompt_is_read_off_the_template(qwen: ChatTokenizer, smollm2: ChatTokenizer) -> None:
    assert default_system(qwen) == "You are a helpful assistant"
    assert default_system(smollm2) == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def test_template_without_default_system_prompt(qwen: ChatTokenizer) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    assert default_system(Templated(qwen, template)) is None


def test_template_that_refuses_system_messages(qwen: ChatTokenizer) -> None:
    template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    assert default_system(Templated(qwen, template)) is None
