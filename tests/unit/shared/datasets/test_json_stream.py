"""Whatever is read at a time, a JSON text gives the values, and the errors, that json.loads finds in it."""

import io
import json
from typing import Any

import pytest

from finery_shared.datasets.json_stream import JsonStream

hypothesis: Any = pytest.importorskip("hypothesis", reason="installed in core alone")
st: Any = pytest.importorskip("hypothesis.strategies")
few = hypothesis.settings(max_examples=40, deadline=None)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


@few
@hypothesis.given(items=st.lists(VALUES, max_size=6), chunk=st.integers(1, 50), indent=st.sampled_from([None, 0, 3]))
def test_items_of_an_array(items: list[object], chunk: int, indent: int | None) -> None:
    for text in (json.dumps(items, indent=indent), json.dumps(items, indent=indent, ensure_ascii=False)):
        stream = JsonStream(io.StringIO(f" {text}\n"), chunk)
        assert list(stream.items()) == items
        stream.end()


@few
@hypothesis.given(fields=st.dictionaries(st.text(max_size=9), VALUES, max_size=6), chunk=st.integers(1, 50))
def test_members_of_an_object(fields: dict[str, object], chunk: int) -> None:
    stream = JsonStream(io.StringIO(json.dumps(fields)), chunk)
    assert {key: stream.value() for key in stream.members()} == fields


@pytest.mark.parametrize("chunk", range(1, 9))
def test_numbers_are_not_cut(chunk: int) -> None:
    numbers = [0.0, -1.5e-07, 1e300, 12345678901234567890, -0.25, 0]
    stream = JsonStream(io.StringIO(json.dumps(numbers)), chunk)
    assert list(stream.items()) == numbers


@few
@hypothesis.given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=9), chunk=st.integers(1, 50))
def test_the_line_is_the_files(rows: list[int], chunk: int) -> None:
    text = "".join("\n" * row + '{"a":\n1}' for row in rows)
    stream = JsonStream(io.StringIO(text), chunk)
    expected = 1
    for row in rows:
        expected += row
        stream.peek()
        assert stream.line == expected
        assert stream.value() == {"a": 1}
        expected += 1
    assert stream.peek() == ""


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}\n, {"a" 2}]',
        "[1,\n 2",
        '["abc',
        "[1 2]",
        "[nul]",
        '["\\x"]',
        "[1]]",
        '[{"a": }]',
        "[\n\n\n\n\n\n1,,2]",
        "[1, 2\n",
    ],
)
def test_errors_are_where_json_finds_them(text: str, chunk: int) -> None:
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(json.JSONDecodeError) as caught:
        stream = JsonStream(io.StringIO(text), chunk)
        list(stream.items())
        stream.end()
    assert caught.value.lineno == expected.value.lineno
    assert abs(caught.value.colno - expected.value.colno) <= 1
