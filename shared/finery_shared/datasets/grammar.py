"""The grammar of ``--dataset``: ``[HF::|MS::]name|id|path[:subset[/subset]][#N]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from finery_shared.errors import FineryError, invalid

HubName = Literal["HF", "MS"]

_COUNT = re.compile(r"^(?P<rest>.*)#(?P<count>[^#/]*)$", re.DOTALL)
_FILE = re.compile(r"\.(jsonl|json|csv|tsv|parquet|txt)$", re.IGNORECASE)


@dataclass(frozen=True)
class DatasetSpec:
    """One parsed ``--dataset`` argument. ``count`` is the number of rows asked for, None for all.

    ``subset`` may name several, separated by slashes; rows are counted over all of them.
    """

    text: str
    name: str
    hub: HubName | None = None
    subset: str | None = None
    count: int | None = None


def parse(text: str) -> DatasetSpec:
    """Parse one data set argument; raises INVALID_ARGUMENT saying what is wrong with it."""
    rest = text.strip()
    hub, rest = _split_hub(text, rest)
    count, rest = _split_count(text, rest)
    rest, subset = _split_subset(text, rest)
    if not rest:
        raise _bad(text, "the name is missing")
    return DatasetSpec(text=text, name=rest, hub=hub, subset=subset, count=count)


def _split_hub(text: str, rest: str) -> tuple[HubName | None, str]:
    if "::" not in rest:
        return None, rest
    prefix, _, rest = rest.partition("::")
    match prefix.upper():
        case "HF":
            return "HF", rest
        case "MS":
            return "MS", rest
    raise _bad(text, f"{prefix!r} is no hub; HF:: (Hugging Face) and MS:: (ModelScope) are")


def _split_count(text: str, rest: str) -> tuple[int | None, str]:
    match = _COUNT.match(rest)
    if match is None:
        return None, rest
    digits = match["count"].strip()
    if not digits.isascii() or not digits.isdigit() or int(digits) == 0:
        raise _bad(text, f"{digits!r} is not a number of rows; write a positive whole number, as in alpaca-zh#500")
    return int(digits), match["rest"]


def _split_subset(text: str, rest: str) -> tuple[str, str | None]:
    """What follows the last colon, unless that belongs to a path: it ends like a data file's name."""
    name, colon, subset = rest.rpartition(":")
    if not colon or not name or _FILE.search(subset):
        return rest, None
    if not all(subset.split("/")):
        raise _bad(text, "a subset is missing after the colon; one stands there, as in alpaca:train, or a:train/test")
    return name, subset


def _bad(text: str, what: str) -> FineryError:
    return invalid("dataset", f"{text!r}: {what}. The form is [HF::|MS::]name|id|path[:subset[/subset]][#N].")
