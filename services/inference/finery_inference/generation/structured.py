"""The shape that an answer should have, checked before an engine sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import validator_for

from finery_inference.engines.errors import shape_refused
from finery_inference.engines.protocol import Structured

MOST_CHARACTERS = 32_768
"""Of a schema, of an expression, and of all choices together: the time to build a grammar grows faster than they do."""
MOST_CHOICES = 1024
THREAD_CHARACTERS = 2048
"""Longer schemas are checked in a thread, so that other streams go on."""


async def check(structured: Structured | None) -> None:
    """Raise INVALID_ARGUMENT for a shape that no engine could give an answer."""
    if structured is None:
        return
    size = len(structured.value) if isinstance(structured.value, str) else sum(map(len, structured.value))
    if size > MOST_CHARACTERS:
        raise shape_refused(structured, f"it has {size} characters, and {MOST_CHARACTERS} is the most")
    if structured.kind == "json_schema":
        if size > THREAD_CHARACTERS:
            await asyncio.to_thread(_check_schema, structured)
        else:
            _check_schema(structured)
    elif structured.kind == "regex" and not structured.value:
        raise shape_refused(structured, "it is empty")
    elif structured.kind == "choices":
        _check_choices(structured)


def _check_choices(structured: Structured) -> None:
    if not 1 <= len(structured.value) <= MOST_CHOICES:
        raise shape_refused(structured, f"it has {len(structured.value)} texts; give 1 to {MOST_CHOICES}")
    if not all(structured.value):
        raise shape_refused(structured, "one of its texts is empty; leave that one out")


def _check_schema(structured: Structured) -> None:
    try:
        schema: Any = json.loads(str(structured.value))
        if not isinstance(schema, dict) or not isinstance(schema.get("$schema", ""), str):
            raise shape_refused(structured, "it is not a JSON object with, if any, the name of a dialect as $schema")
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        where = f" at {error.json_path}" if error.path else ""
        raise shape_refused(structured, f"it is not a valid JSON schema{where}: {error.message[:200]}") from None
    except ValueError as error:
        raise shape_refused(structured, f"it is not JSON: {error}") from None
    except RecursionError:
        raise shape_refused(structured, "it is nested too deeply") from None
