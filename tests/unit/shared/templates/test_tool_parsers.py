import pytest

from finery_shared.templates import tool_parser_of

from .family_templates import TEMPLATES

FORMATS = {"qwen2_5": "hermes", "llama3": "llama3_json"}


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_the_format_of_calls_is_told_by_the_template(family: str) -> None:
    assert tool_parser_of(TEMPLATES[family]) == FORMATS.get(family)


def test_other_calls_between_the_same_marks_are_told_apart() -> None:
    marks = "{% if tools %}<tool_call>"
    assert tool_parser_of(marks + '{"name": , "arguments": }') == "hermes"
    assert tool_parser_of(marks + "<function=x> arguments") is None
    assert tool_parser_of(marks + "<arg_key> arguments") is None
