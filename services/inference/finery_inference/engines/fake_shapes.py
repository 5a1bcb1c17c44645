"""What the fake engine answers when an answer has to have a shape: the smallest thing that has it."""

from __future__ import annotations

import json
from typing import Any

from finery_inference.engines.errors import shape_refused
from finery_inference.engines.protocol import Structured

_SMALLEST: dict[str, Any] = {"string": "", "integer": 0, "number": 0, "boolean": False, "null": None, "array": []}
_KNOWN = frozenset({"type", "properties", "required", "additionalProperties", "enum", "const", "items"})
_NOTES = frozenset({"title", "description", "default", "examples", "$schema"})


def smallest(structured: Structured) -> str:
    """A text of the shape. Raises INVALID_ARGUMENT for expressions, and for schemas with other than plain keywords."""
    if structured.kind == "choices":
        return str(structured.value[0])
    if structured.kind == "regex":
        raise shape_refused(structured, "the fake engine knows no regular expressions; use choices or a JSON schema")
    if structured.kind == "structural_tag":
        return _tagged(structured, json.loads(str(structured.value))["format"])
    if structured.kind == "json_object":
        return "{}"
    return json.dumps(_instance(structured, json.loads(str(structured.value))))


def _tagged(structured: Structured, shape: Any) -> str:
    """The first tag of a list that must have one; nothing where any text will do."""
    if not shape.get("at_least_one"):
        return ""
    tag = shape["tags"][0]
    return str(tag["begin"]) + json.dumps(_instance(structured, tag["content"]["json_schema"])) + str(tag["end"])


def _instance(structured: Structured, schema: Any) -> Any:
    if unknown := sorted(set(schema) - _KNOWN - _NOTES):
        raise shape_refused(structured, f"the fake engine does not know {unknown[0]!r} in a JSON schema; leave it out")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _instance(structured, properties.get(name, {})) for name in schema.get("required", ())}
    if kind not in _SMALLEST:
        raise shape_refused(structured, f"the fake engine does not know the type {kind!r}; use a single one")
    return _SMALLEST[kind]
