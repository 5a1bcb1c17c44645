from pathlib import Path
from typing import Any

import pytest

from finery_shared.datasets.files import read_rows
from finery_shared.errors import FineryError, Reason


def rows(path: Path, subset: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    return [(row.place, dict(row.fields)) for row in read_rows(path, subset)]


def refusal(path: Path, subset: str | None = None) -> FineryError:
    with pytest.raises(FineryError) as caught:
        rows(path, subset)
    return caught.value


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"q": 1}\n\n{"q": 2}\n', [("line 1", {"q": 1}), ("line 3", {"q": 2})]),
        ("a.jsonl", '\ufeff{"q": "\u2028"}\r\n', [("line 1", {"q": "\u2028"})]),
        ("a.json", '[{"q": 1}, {"q": 2}]', [("row 1", {"q": 1}), ("row 2", {"q": 2})]),
        ("a.json", '{"data": [{"q": 1}]}', [("row 1", {"q": 1})]),
        ("a.json", '{"q": 1}\n{"q": 2}', [("line 1", {"q": 1}), ("line 2", {"q": 2})]),
        ("a.csv", 'q,a\n"x\ny",z\n你,好\n', [("line 3", {"q": "x\ny", "a": "z"}), ("line 4", {"q": "你", "a": "好"})]),
        ("a.JSONL", '{"q": 1}', [("line 1", {"q": 1})]),
    ],
)
def test_rows_and_places(tmp_path: Path, name: str, content: str, expected: list[Any]) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert rows(path) == expected


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet is read where pyarrow is installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"q": ["x", "y"]}), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [("row 1", {"q": "x"}), ("row 2", {"q": "y"})]


@pytest.mark.parametrize(
    ("name", "content", "place", "problem"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q": \n', "line 2", "not valid JSON"),
        ("a.jsonl", b'{"q": 1}\n[1]\n', "line 2", "it is a list, not a JSON object"),
        ("a.json", b'[{"q": 1}, "text"]', "row 2", "it is a str, not a JSON object"),
        ("a.json", b'[{"q": 1},\n{"q" 2}]', "line 2", "not valid JSON"),
        ("a.jsonl", b'{"q": "\xff"}', "byte 7", "not UTF-8"),
    ],
)
def test_broken_rows_are_named_by_file_and_place(
    tmp_path: Path, name: str, content: bytes, place: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refusal(path)
    assert error.reason is Reason.DATASET_ROW_INVALID
    assert f"{path}, {place}: " in error.message
    assert problem in error.message
    assert error.metadata == {"path": str(path), "place": place}


def test_missing_file(tmp_path: Path) -> None:
    error = refusal(tmp_path / "a.jsonl")
    assert error.reason is Reason.FILE_MISSING
    assert str(tmp_path / "a.jsonl") in error.message


def test_unknown_type(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    error = refusal(tmp_path / "a.xlsx")
    assert error.reason is Reason.UNSUPPORTED
    assert ".jsonl, .json, .csv, .parquet" in error.message


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("data/train-00000.jsonl", "data/test.jsonl", "zh/rows.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"file": "{name}"}}')
    (tmp_path / "README.md").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (None, ["data/test.jsonl", "data/train-00000.jsonl", "zh/rows.jsonl"]),
        ("train", ["data/train-00000.jsonl"]),
        ("zh", ["zh/rows.jsonl"]),
        ("data", ["data/test.jsonl", "data/train-00000.jsonl"]),
    ],
)
def test_directories_and_subsets(repository: Path, subset: str | None, expected: list[str]) -> None:
    assert [fields["file"] for _, fields in rows(repository, subset)] == expected


def test_unknown_subset(repository: Path) -> None:
    error = refusal(repository, "fr")
    assert error.reason is Reason.DATASET_NOT_FOUND
    assert "no data files of subset 'fr'" in error.message
