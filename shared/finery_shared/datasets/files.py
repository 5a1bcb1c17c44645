"""Rows from files, one at a time (.jsonl, .json, .csv, .tsv, .parquet, .txt), each with the place where it stands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from finery_shared.datasets.json_stream import JsonStream
from finery_shared.datasets.problems import TOO_DEEP
from finery_shared.errors import FineryError, Reason


@dataclass(frozen=True)
class RawRow:
    """A row as it was read; ``place`` is "line 12" or, in a JSON array or parquet file, "row 12" (from 1)."""

    file: Path
    place: str
    fields: Mapping[str, Any]


def read_rows(path: Path, subset: str | None = None) -> Iterator[RawRow]:
    """Read the `data_files` of a path one after the other; raises what `data_files` and `read_file` raise."""
    for file in data_files(path, subset):
        yield from read_file(file)


def read_file(file: Path) -> Iterator[RawRow]:
    """Read one file, of which no more than a row is in memory (a parquet file: a row group).

    Raises DATASET_ROW_INVALID (a row that is no JSON object, with its line) or UNSUPPORTED (file type).
    """
    return _reader(file)(file)


def is_data_file(name: str) -> bool:
    """Whether a path's suffix is one that can be read."""
    return Path(name).suffix.lower() in _READERS


def data_files(path: Path, subset: str | None = None) -> list[Path]:
    """A file, or every data file below a directory (of the subsets "a/b": those whose path names a or b), by name.

    In a directory, .txt files count where there are no others: beside data they are notes and licences. Raises
    FILE_MISSING or DATASET_NOT_FOUND (no such subset).
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FineryError(Reason.FILE_MISSING, f"There is no data file {path}: check the path.", path=str(path))
    files = sorted(file for file in path.rglob("*") if file.is_file() and is_data_file(file.name))
    files = [file for file in files if file.suffix.lower() != ".txt"] or files
    if not files:
        raise _no_files(path, "no data files")
    if subset is None:
        return files
    chosen: set[Path] = set()
    for name in subset.split("/"):
        found = {file for file in files if _in_subset(file.relative_to(path), name)}
        if not found:
            raise _no_files(path, f"no data files of subset {name!r}")
        chosen |= found
    return sorted(chosen)


def _no_files(path: Path, what: str) -> FineryError:
    return FineryError(
        Reason.DATASET_NOT_FOUND, f"{path} has {what} ({', '.join(_READERS)}): check the name.", path=str(path)
    )


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
    with _opened(file) as text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield _row(file, f"line {number}", _parse(file, f"line {number}", line))


def _read_json(file: Path) -> Iterator[RawRow]:
    """Read an array of objects, an object with such an array in ``data``, or objects one after the other."""
    with _opened(file) as text:
        stream = JsonStream(text)
        try:
            for place, row in _array(stream) if stream.peek() == "[" else _objects(stream):
                yield _row(file, place, row)
        except json.JSONDecodeError as error:
            raise _not_json(file, f"line {error.lineno}", error) from error
        except RecursionError as error:
            raise row_error(file, f"line {stream.line}", TOO_DEEP) from error


def _array(stream: JsonStream) -> Iterator[tuple[str, object]]:
    for number, row in enumerate(stream.items(), start=1):
        yield f"row {number}", row
    stream.end()


def _objects(stream: JsonStream) -> Iterator[tuple[str, object]]:
    while stream.peek():
        place = f"line {stream.line}"
        if stream.peek() != "{":
            yield place, stream.value()
            continue
        fields: dict[str, object] = {}
        for key in stream.members():
            if key == "data" and stream.peek() == "[":
                for number, row in enumerate(stream.items(), start=1):
                    yield f"row {number}", row
                return
            fields[key] = stream.value()
        yield place, fields


def _read_csv(file: Path) -> Iterator[RawRow]:
    with _opened(file, newline="") as text:
        reader = csv.DictReader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        try:
            for fields in reader:
                known = {key: value for key, value in fields.items() if key is not None}
                yield RawRow(file, f"line {reader.line_num}", known)
        except csv.Error as error:
            raise row_error(file, f"line {reader.line_num}", f"it is not valid CSV ({error}); use .jsonl") from error


def _read_parquet(file: Path) -> Iterator[RawRow]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise FineryError(
            Reason.UNSUPPORTED,
            f"{file}: parquet files need the pyarrow package, which this service lacks; convert it to .jsonl.",
            path=str(file),
        ) from error
    number = 0
    try:
        opened = parquet.ParquetFile(file)
        for group in range(opened.num_row_groups):
            for batch in opened.iter_batches(batch_size=64, row_groups=[group]):
                for fields in batch.to_pylist():
                    number += 1
                    yield RawRow(file, f"row {number}", fields)
    except ArrowException as error:
        raise row_error(file, f"after row {number}", f"it is not a whole parquet file ({error})") from error


def _read_text(file: Path) -> Iterator[RawRow]:
    """Every line that is not blank is a row of plain text."""
    with _opened(file) as text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield RawRow(file, f"line {number}", {"text": line.rstrip("\r\n")})


_READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}


@contextmanager
def _opened(file: Path, newline: str = "\n") -> Iterator[TextIO]:
    """The file as text; by default lines end at line feeds alone, as JSON lines do."""
    try:
        with file.open(encoding="utf-8-sig", newline=newline) as text:
            yield text
    except UnicodeDecodeError as error:
        problem = "it is not UTF-8 text; save the file as UTF-8"
        raise row_error(file, f"byte {_first_bad_byte(file)}", problem) from error


def _first_bad_byte(file: Path) -> int:
    offset = 0
    with file.open("rb") as lines:
        for line in lines:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return offset + error.start
            offset += len(line)
    return offset


def _parse(file: Path, place: str, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _not_json(file, place, error) from error
    except RecursionError as error:
        raise row_error(file, place, TOO_DEEP) from error


def _not_json(file: Path, place: str, error: json.JSONDecodeError) -> FineryError:
    return row_error(file, place, f"it is not valid JSON ({error.msg}, column {error.colno})")


def _row(file: Path, place: str, parsed: object) -> RawRow:
    if not isinstance(parsed, dict):
        raise row_error(file, place, f"it is a {type(parsed).__name__}, not a JSON object")
    return RawRow(file, place, parsed)


def row_error(file: Path, place: str, problem: str) -> FineryError:
    """A DATASET_ROW_INVALID error that names file and place."""
    shown = problem.encode("utf-8", "backslashreplace").decode("utf-8")  # it may quote what no message can carry
    return FineryError(Reason.DATASET_ROW_INVALID, f"{file}, {place}: {shown}.", path=str(file), place=place)
