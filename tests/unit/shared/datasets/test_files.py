import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from finery_shared.datasets.files import read_rows
from finery_shared.errors import FineryError, Reason

DEEP = b"[" * 100_000 + b"]" * 100_000


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
        ("a.tsv", 'q\ta\n"x,y"\tz\n', [("line 2", {"q": "x,y", "a": "z"})]),
        ("a.JSONL", '{"q": 1}', [("line 1", {"q": 1})]),
        ("a.json", '{"q": 1}', [("line 1", {"q": 1})]),
        ("a.json", '{"of": "x", "data": [{"q": 1}, {"q": 2}], "n": 2}', [("row 1", {"q": 1}), ("row 2", {"q": 2})]),
        ("a.json", '{"q": 1,\n"r": [2]}\n\n{"q": 2}\n', [("line 1", {"q": 1, "r": [2]}), ("line 4", {"q": 2})]),
        ("a.json", " [\n]\n", []),
        ("a.json", "", []),
        ("a.txt", "one\n\n two \r\n", [("line 1", {"text": "one"}), ("line 3", {"text": " two "})]),
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
        ("a.txt", b"\xef\xbb\xbfone\ntw\xffo", "byte 9", "not UTF-8"),
        ("a.json", b'[{"q": 1}] x', "line 1", "not valid JSON (Extra data, column 12)"),
        ("a.json", b'[{"q": 1} {"q": 2}]', "line 1", "not valid JSON (Expecting ',' delimiter, column 11)"),
        ("a.json", b'[{"q": 1},\n{"q": "x', "line 2", "Unterminated string"),
        ("a.json", b'{"q": 1}\n5', "line 2", "it is a int, not a JSON object"),
        ("a.json", b'{"q" 1}', "line 1", "Expecting ':'"),
        ("a.jsonl", b'{"q": 1}\n{"q": ' + DEEP + b"}", "line 2", "nested too deeply"),
        ("a.json", b'[{"q": 1},\n{"messages": [{"content": ' + DEEP + b"}]}]", "line 2", "nested too deeply"),
        ("a.json", b'{"q": 1}\n{"q": ' + DEEP + b"}", "line 2", "nested too deeply"),
        ("a.parquet", b"PAR1", "after row 0", "not a whole parquet file"),
        ("a.csv", b'q,a\n"' + b"x" * 140_000 + b'",z\n', "line 1", "not valid CSV (field larger"),
    ],
)
def test_broken_rows_are_named_by_file_and_place(
    tmp_path: Path, name: str, content: bytes, place: str, problem: str
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="parquet is read where pyarrow is installed")
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
    assert ".jsonl, .json, .csv, .tsv, .parquet, .txt" in error.message


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
        ("zh/train", ["data/train-00000.jsonl", "zh/rows.jsonl"]),
        ("zh", ["zh/rows.jsonl"]),
        ("data", ["data/test.jsonl", "data/train-00000.jsonl"]),
    ],
)
def test_directories_and_subsets(repository: Path, subset: str | None, expected: list[str]) -> None:
    assert [fields["file"] for _, fields in rows(repository, subset)] == expected


def test_a_directory_of_texts_alone(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("Free.")
    assert [fields for _, fields in rows(tmp_path)] == [{"text": "Free."}]
    (tmp_path / "a.jsonl").write_text("{}")
    assert [fields for _, fields in rows(tmp_path)] == [{}]


def test_large_files_are_read_row_by_row(tmp_path: Path) -> None:
    """6 MB in each format; what is held at a time is a row and a buffer, not the file."""
    count, text = 60, "x" * 10**5
    (tmp_path / "a.json").write_text(json.dumps([{"q": text}] * count))
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"q": text}] * count}))
    (tmp_path / "c.jsonl").write_text((json.dumps({"q": text}) + "\n") * count)
    (tmp_path / "d.csv").write_text("q\n" + (text + "\n") * count)
    (tmp_path / "e.txt").write_text((text + "\n") * count)
    for file in sorted(tmp_path.iterdir()):
        tracemalloc.start()
        assert sum(len(next(iter(row.fields.values()))) for row in read_rows(file)) == count * 10**5
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2e6, file


def test_a_large_parquet_file_is_read_by_its_row_groups(tmp_path: Path) -> None:
    """9 MB in 30 groups; what is held at a time is a row, and a group as it lies in the file."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet is read where pyarrow is installed")
    from pyarrow import parquet

    texts = [f"{n:03}" * 10**4 for n in range(300)]
    parquet.write_table(pyarrow.table({"q": texts}), tmp_path / "a.parquet", row_group_size=10, compression="none")
    del texts
    before, held, length = pyarrow.total_allocated_bytes(), 0, 0
    tracemalloc.start()
    for row in read_rows(tmp_path / "a.parquet"):
        length += len(row.fields["q"])
        held = max(held, pyarrow.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length == 9 * 10**6
    assert (peak < 2e6, held < 2e6) == (True, True), (peak, held)


def test_rows_across_the_borders_of_what_is_read_at_once(tmp_path: Path) -> None:
    written = [{"n": n, "text": '€\\ "' * (n % 977), "list": [[-1.5e-7, None]] * (n % 5)} for n in range(900)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(written, indent=1))
    assert path.stat().st_size > 2**21
    assert [fields for _, fields in rows(path)] == written


def test_unknown_subset(repository: Path) -> None:
    error = refusal(repository, "fr")
    assert error.reason is Reason.DATASET_NOT_FOUND
    assert "no data files of subset 'fr'" in error.message
