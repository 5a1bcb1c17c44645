from pathlib import Path

import pytest

from finery_client.paths import absolute, absolute_dataset, absolute_model


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").mkdir()
    (tmp_path / "my-model").mkdir()
    return tmp_path


def test_a_path_is_seen_from_the_commands_directory(cwd: Path):
    assert absolute("output", cwd) == str(cwd / "output")
    assert absolute("/x/output", cwd) == "/x/output"
    assert absolute("~/output", cwd) == str(Path.home() / "output")
    assert absolute("", cwd) == ""


@pytest.mark.parametrize(
    "text",
    [
        "self-cognition#500",
        "alpaca-zh",
        "AI-ModelScope/alpaca-gpt4-data-zh#500",
        "HF::owner/name:train#10",
        "MS::data/rows",
    ],
)
def test_names_and_hub_ids_stay(text: str, cwd: Path):
    assert absolute_dataset(text, cwd) == text


@pytest.mark.parametrize(
    ("text", "path", "rest"),
    [
        ("my.jsonl", "my.jsonl", ""),
        ("my.jsonl#20", "my.jsonl", "#20"),
        ("./x.csv:train#20", "x.csv", ":train#20"),
        ("data/rows#3", "data/rows", "#3"),
        ("../x", "../x", ""),
        ("data/r.parquet:a", "data/r.parquet", ":a"),
        ("data/rows:train/test#9", "data/rows", ":train/test#9"),
        ("./rows:train/test", "rows", ":train/test"),
    ],
)
def test_data_files_become_absolute_and_keep_subset_and_count(text: str, path: str, rest: str, cwd: Path):
    assert absolute_dataset(text, cwd) == f"{cwd / path}{rest}"


def test_models(cwd: Path):
    assert absolute_model("my-model", cwd) == str(cwd / "my-model")
    assert absolute_model("./not-there", cwd) == str(cwd / "not-there")
    assert absolute_model("Qwen/Qwen1.5-7B-Chat", cwd) == "Qwen/Qwen1.5-7B-Chat"
    assert absolute_model("", cwd) == ""
