"""Variables that a caller sets in a chat template."""

import pytest

from finery_shared.errors import FineryError
from finery_shared.templates import ChatTokenizer, check_variables, render_prompt
from finery_shared.templates.variables import RESERVED

from .templated import Templated

TEMPLATE = "{{ style | default('plain') }}:{% for m in messages %}{{ m.content }}{% endfor %}"


def test_variables_reach_the_template(qwen: ChatTokenizer) -> None:
    tokenizer = Templated(qwen, TEMPLATE)
    messages = [{"role": "user", "content": "Hi"}]
    assert render_prompt(tokenizer, messages).text == "plain:Hi"
    prompt = render_prompt(tokenizer, messages, variables={"style": {"words": 3}})
    assert prompt.text == "{'words': 3}:Hi"
    assert list(prompt.token_ids) == qwen.encode(prompt.text, add_special_tokens=False)


def test_what_rendering_sets_is_refused_by_name() -> None:
    check_variables(["enable_thinking", "style"])
    for name in RESERVED:
        with pytest.raises(FineryError, match="leave it out") as refusal:
            check_variables(["style", name])
        assert refusal.value.metadata == {"field": f"chat_template_kwargs.{name}"}


def test_every_argument_of_transformers_is_taken(qwen: ChatTokenizer) -> None:
    """A variable of such a name would change how the prompt is made."""
    import inspect

    parameters = inspect.signature(qwen.apply_chat_template).parameters.values()
    named = {each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
    assert named - {"documents"} <= RESERVED
