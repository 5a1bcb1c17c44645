"""Rows from files: .jsonl, .json, .csv and .parquet, each with the place where it stands."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_shared.errors import FineryError, Reason


@dataclass(frozen=True)
class RawRow:
    """A row as it was read; ``place`` is "line 12" or, in a JSON array or parquet file, "row 12" (from 1)."""

    file: Path
    place: str
    fields: Mapping[str, Any]


def read_rows(path: Path, subset: str | None = None) -> Iterator[RawRow]:
    """Read a file, or every data file below a directory (of a subset: those whose path names it), in order of name.

    Raises FILE_MISSING, DATASET_NOT_FOUND (no such subset), DATASET_ROW_INVALID (a row that is no JSON object, with
    its line) or UNSUPPORTED (file type).
    """
    for file in _data_files(path, subset):
        yield from _reader(file)(file)


def is_data_file(name: str) -> bool:
    """Whether a path's suffix is one that can be read."""
    return Path(name).suffix.lower() in _READERS


def _data_files(path: Path, subset: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FineryError(Reason.FILE_MISSING, f"There is no data file {path}: check the path.", path=str(path))
    files = sorted(file for file in path.rglob("*") if file.is_file() and is_data_file(file.name))
    chosen = [file for file in files if subset is None or _in_subset(file.relative_to(path), subset)]
    if not chosen:
        what = f"no data files of subset {subset!r}" if subset and files else "no data files"
        raise FineryError(
            Reason.DATASET_NOT_FOUND, f"{path} has {what} ({', '.join(_READERS)}): check the name.", path=str(path)
        )
    return chosen


def _in_subset(file: Path, subset: str) -> bool:
    return subset in file.parts[:-1] or file.stem == subset or file.stem.startswith((f"{subset}-", f"{subset}_"))


def _reader(file: Path) -> Callable[[Path], Iterator[RawRow]]:
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise FineryError(
            Reason.UNSUPPORTED,
            f"{file}: files of type {file.suffix or 'unknown'} can't be read; use {', '.join(_READERS)}.",
            path=str(file),
        )
    return reader


def _read_jsonl(file: Path) -> Iterator[RawRow]:
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if line.strip():
            yield _row(file, f"line {number}", _parse(file, f"line {number}", line))


def _read_json(file: Path) -> Iterator[RawRow]:
    """Read an array of objects, an object with such an array in ``data``, or JSON lines under this suffix."""
    text = _text(file)
    try:
        parsed = json.loads(text)
    except ValueError:
        if text.lstrip().startswith("{") and "\n{" in text.replace("\r", ""):
            yield from _read_jsonl(file)
            return
        _parse(file, "", text)
        return
    rows = parsed.get("data", [parsed]) if isinstance(parsed, dict) else parsed
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        yield _row(file, f"row {number}", row)


def _read_csv(file: Path) -> Iterator[RawRow]:
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    for fields in reader:
        yield RawRow(file, f"line {reader.line_num}", {key: value for key, value in fields.items() if key is not None})


def _read_parquet(file: Path) -> Iterator[RawRow]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise FineryError(
            Reason.UNSUPPORTED,
            f"{file}: parquet files need the pyarrow package, which this service lacks; convert it to .jsonl.",
            path=str(file),
        ) from error
    number = 0
    for batch in parquet.ParquetFile(file).iter_batches():
        for fields in batch.to_pylist():
            number += 1
            yield RawRow(file, f"row {number}", fields)


_READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise row_error(file, f"byte {error.start}", "it is not UTF-8 text; save the file as UTF-8") from error


def _parse(file: Path, place: str, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}"
        raise row_error(file, where, f"it is not valid JSON ({error.msg}, column {error.colno})") from error


def _row(file: Path, place: str, parsed: object) -> RawRow:
    if not isinstance(parsed, dict):
        raise row_error(file, place, f"it is a {type(parsed).__name__}, not a JSON object")
    return RawRow(file, place, parsed)


def row_error(file: Path, place: str, problem: str) -> FineryError:
    """A DATASET_ROW_INVALID error that names file and place."""
    return FineryError(Reason.DATASET_ROW_INVALID, f"{file}, {place}: {problem}.", path=str(file), place=place)
