"""For every family that is known: the ids are apply_chat_template's, and exactly the assistant's turns are learned."""

import json
from typing import Any

import pytest

from finery_shared.datasets.formats import read_fields
from finery_shared.errors import FineryError
from finery_shared.templates import ChatTokenizer, family, family_of, render, render_prompt
from finery_shared.templates.families import FAMILIES
from tests.fakes.qwen_tokenizer import write_qwen_tokenizer

from .family_templates import MARKS, TEMPLATES, WITH_TOOLS, WITHOUT_SYSTEM
from .templated import Templated


@pytest.fixture(scope="module")
def marked(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    """Qwen's tokenizer with the special tokens of all families."""
    directory = write_qwen_tokenizer(tmp_path_factory.mktemp("marked"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    made: ChatTokenizer = tokenizer
    return made


def learned(tokenizer: Any, messages: Any, tools: Any = ()) -> list[str]:
    rendered = render(tokenizer, messages, tools)
    runs: list[list[int]] = [[]]
    for token, learn in zip(rendered.token_ids, rendered.loss_mask, strict=True):
        if learn:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def check(tokenizer: ChatTokenizer, messages: Any, tools: Any = ()) -> None:
    """Ids are the template's; every learned run begins where the prompt for it ends."""
    offered = {"tools": list(tools)} if tools else {}
    expected: Any = tokenizer.apply_chat_template(
        list(messages), tokenize=True, add_generation_prompt=False, return_dict=False, **offered
    )
    rendered = render(tokenizer, messages, tools)
    assert list(rendered.token_ids) == expected
    begins = [at for at, learn in enumerate(rendered.loss_mask) if learn and not rendered.loss_mask[at - 1]]
    prompts = [
        render_prompt(tokenizer, messages[:at], tools).token_ids
        for at, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    assert begins == list(map(len, prompts))
    assert all(rendered.token_ids[: len(prompt)] == prompt for prompt in prompts)


def test_there_is_a_template_for_every_family() -> None:
    assert list(TEMPLATES) == [known.name for known in FAMILIES]
    assert [family_of(template).name for template in TEMPLATES.values()] == list(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [None, "Answer briefly."])
def test_answers_and_their_ends_are_learned(marked: ChatTokenizer, name: str, system: str | None) -> None:
    tokenizer = Templated(marked, TEMPLATES[name])
    texts = ["Who are you?", "I am Xiao Huang.", "1+1=?", "2\n\n```\n1+1\n```", "你是谁？", "我是小黄。"]
    messages = [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(texts)]
    if system is not None and name not in WITHOUT_SYSTEM:
        messages.insert(0, {"role": "system", "content": system})
    check(tokenizer, messages)
    end = family(name).end_of_turn
    space = " " if name == "llama2" else ""
    assert learned(tokenizer, messages) == [f"{space}{text}{space}{end}" for text in texts[1::2]]


TOOLS = [
    {"name": "weather", "description": "现在的天气", "parameters": {"properties": {"city": {"type": "string"}}}},
    {"name": "now"},
]
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京", "days": 2}'}}
TOOL_ROW: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": '{"sky": "clear"}'},
        {"role": "assistant", "content": "It is clear."},
        {"role": "user", "content": "And the time?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": "{}"}}]},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "content": "Noon."},
    ],
    "tools": TOOLS,
}


def tool_row(**changes: Any) -> tuple[list[Any], Any]:
    row = read_fields({**TOOL_ROW, **changes})
    return [turn.message() for turn in row.turns], row.tools


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tool_calls_are_learned_and_what_tools_answer_is_not(marked: ChatTokenizer, name: str) -> None:
    tokenizer = Templated(marked, TEMPLATES[name])
    messages, tools = tool_row()
    check(tokenizer, messages, tools)
    arguments = json.dumps({"city": "北京", "days": 2}, ensure_ascii=False)
    expected = {
        "qwen2_5": [
            f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call><|im_end|>',
            "It is clear.<|im_end|>",
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>',
            "Noon.<|im_end|>",
        ],
        "llama3": [
            f'{{"name": "weather", "parameters": {arguments}}}<|eot_id|>',
            "It is clear.<|eot_id|>",
            '{"name": "now", "parameters": {}}<|eot_id|>',
            "Noon.<|eot_id|>",
        ],
    }[name]
    assert learned(tokenizer, messages, tools) == expected


def test_words_and_several_calls_in_one_turn(marked: ChatTokenizer) -> None:
    tokenizer = Templated(marked, TEMPLATES["qwen2_5"])
    calls = [{"name": "weather", "arguments": {"city": '"A" \\ B'}}, {"name": "now", "arguments": {}}]
    messages, tools = tool_row(
        messages=[
            {"role": "user", "content": "Weather and time?"},
            {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
            {"role": "tool", "content": ""},
            {"role": "tool", "content": "noon"},
            {"role": "assistant", "content": "Noon."},
        ]
    )
    check(tokenizer, messages, tools)
    first, second = learned(tokenizer, messages, tools)
    assert first.startswith('Let me see.\n<tool_call>\n{"name": "weather"')
    assert first.endswith('{"name": "now", "arguments": {}}\n</tool_call><|im_end|>')
    assert second == "Noon.<|im_end|>"


def test_a_row_may_end_with_a_call(marked: ChatTokenizer) -> None:
    tokenizer = Templated(marked, TEMPLATES["qwen2_5"])
    messages, tools = tool_row(messages=TOOL_ROW["messages"][:3])
    check(tokenizer, messages, tools)
    assert len(learned(tokenizer, messages, tools)) == 1


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("qwen", {}, "leaves out tool calls"),
        ("qwen", {"messages": TOOL_ROW["messages"][:2] + TOOL_ROW["messages"][4:5]}, "leaves out the tools"),
        ("gemma", {"messages": TOOL_ROW["messages"][1:], "tools": []}, "roles must alternate"),
        ("phi3", {"tools": []}, "renders tool calls differently"),
    ],
)
def test_a_template_without_tools_is_told_apart(
    marked: ChatTokenizer, name: str, changes: dict[str, Any], problem: str
) -> None:
    messages, tools = tool_row(**changes)
    with pytest.raises(FineryError, match=problem):
        render(Templated(marked, TEMPLATES[name]), messages, tools)


def test_real_templates_without_tools_refuse_them(tokenizer: ChatTokenizer) -> None:
    messages, tools = tool_row()
    with pytest.raises(FineryError, match="leaves out tool calls"):
        render(tokenizer, messages, tools)


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_prompt_may_leave_out_words_beside_a_call_and_quote_an_answer(marked: ChatTokenizer, name: str) -> None:
    tokenizer = Templated(marked, TEMPLATES[name].replace("message.content }}", "message.content | tojson }}"))
    messages, tools = tool_row(
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "<think>Hm</think>" if name == "llama3" else "", "tool_calls": [CALL]},
            {"role": "tool", "content": "clear\nand warm\n"},
            {"role": "assistant", "content": "It is clear."},
        ]
    )
    assert "clear" in render_prompt(tokenizer, messages[:-1], tools).text
