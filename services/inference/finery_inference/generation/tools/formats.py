"""The formats of tool calls, by the names that the model registry has for them."""

from __future__ import annotations

from collections.abc import Mapping

from finery_inference.generation.tools.hermes import HERMES
from finery_inference.generation.tools.llama3_json import LLAMA3_JSON
from finery_inference.generation.tools.parser import ToolFormat

FORMATS: Mapping[str, ToolFormat] = {"hermes": HERMES, "llama3_json": LLAMA3_JSON}
"""One for each entry of `finery_shared.templates.tool_parsers`."""
