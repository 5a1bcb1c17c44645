"""JSON texts of the contract."""

from __future__ import annotations

import json

from pydantic import JsonValue

from finery_shared.errors import invalid

DEEPEST = 100
"""Levels of nesting: templates, schemas and grammars are walked by recursion."""


def json_value(field: str, text: str, what: str = "it") -> JsonValue:
    """The value of a JSON text; raises INVALID_ARGUMENT."""
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(field, f"{what} is not JSON.") from None
    if _is_deep(value):
        raise invalid(field, f"{what} is nested deeper than {DEEPEST} levels; make it flatter.")
    return value


def _is_deep(value: JsonValue) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)
