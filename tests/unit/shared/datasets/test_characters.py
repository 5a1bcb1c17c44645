"""Rows of which no text can be made: JSON can write half of a character."""

import json
from pathlib import Path
from typing import Any

import pytest

from finery_shared.datasets import load
from finery_shared.datasets.identity import Identity
from finery_shared.datasets.reading import RowReader, Skipped
from finery_shared.datasets.source import Source
from finery_shared.errors import FineryError, Reason

ROWS = [{"query": "a", "response": "b"}, {"query": "c", "response": "d"}]


def written(directory: Path, rows: list[dict[str, Any]]) -> Path:
    path = directory / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refusal(path: str) -> FineryError:
    with pytest.raises(FineryError) as caught:
        load([path])
    return caught.value


@pytest.mark.parametrize(
    "row",
    [
        {"query": "a\ud800", "response": "b"},
        {"query": "a", "response": "b", "system": "\udc00"},
        {"text": "a\ud83d b"},
        {
            "messages": [
                {"role": "user", "content": "a"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "\ud800", "arguments": {}}}],
                },
            ]
        },
        {"query": "a", "response": "b", "tools": [{"name": "f", "parameters": {"\ud800": {}}}]},
        {"query": "a {{\ud800}}", "response": "b"},
    ],
)
def test_half_of_a_character_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    path = written(tmp_path, [*ROWS, row])
    error = refusal(str(path))
    assert error.reason is Reason.DATASET_ROW_INVALID
    assert error.message.startswith(f"{path}, line 3: it holds half of a character ('\\ud")
    assert "write the whole character, or remove it" in error.message


def test_a_message_about_half_a_character_in_a_key_can_be_sent(tmp_path: Path) -> None:
    error = refusal(str(written(tmp_path, [{"\ud800": "q"}])))
    assert "found: \\ud800;" in error.message
    assert error.message.encode()


def test_whole_characters_are_read_however_they_are_written(tmp_path: Path) -> None:
    path = written(tmp_path, [{"query": "\U0001f600", "response": "好"}])
    assert "\\ud83d\\ude00" in path.read_text()
    assert load([str(path)], test_ratio=0).train[0].messages[0]["content"] == "\U0001f600"


def test_half_a_character_of_a_hub_is_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, [*ROWS, {"query": "\ud800", "response": "b"}])
    skipped = Skipped()
    reader = RowReader(Source(tmp_path, None, trusted=False), (path,), Identity.of((), ()))
    assert len(list(reader.rows(skipped))) == 2
    assert skipped.count == 1
