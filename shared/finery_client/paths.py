"""Relative paths become absolute before they leave this process: a service has a working directory of its own."""

from __future__ import annotations

import re
from pathlib import Path

_DATA_SUFFIXES = frozenset({".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"})
_DATASET = re.compile(r"^(?P<path>.+?)(?P<rest>(?::[^:/]*)?(?:#[^#/]*)?)$", re.DOTALL)
_DATASET_OF_SUBSETS = re.compile(r"^(?P<path>[^:]+)(?P<rest>:[^:]+)$", re.DOTALL)


def absolute(path: str, cwd: Path) -> str:
    """The path, absolute; ``~`` is the home directory. Empty stays empty."""
    return str((cwd / Path(path).expanduser()).absolute()) if path else ""


def absolute_model(text: str, cwd: Path) -> str:
    """A model's path, absolute; a hub id stays as it is. What exists here as a directory is a path."""
    if _looks_local(text) or (text and (cwd / text).is_dir()):
        return absolute(text, cwd)
    return text


def absolute_dataset(text: str, cwd: Path) -> str:
    """A data set argument whose path, if it has one, is absolute; its ``:subset`` and ``#N`` stay.

    A path starts with a dot, a slash or a tilde, ends like a data file, or has a slash and exists here.
    """
    matches = [pattern.match(text) for pattern in (_DATASET, _DATASET_OF_SUBSETS) if "::" not in text]
    for match in matches:
        if match is not None and _is_data(match["path"], cwd):
            return absolute(match["path"], cwd) + match["rest"]
    return text


def _is_data(path: str, cwd: Path) -> bool:
    data_file = Path(path).suffix.lower() in _DATA_SUFFIXES
    return _looks_local(path) or data_file or ("/" in path and (cwd / path).exists())


def _looks_local(text: str) -> bool:
    return text in (".", "..") or text.startswith(("/", "./", "../", "~"))
