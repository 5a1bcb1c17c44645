"""Chat templates: messages to token ids and a loss mask, by the tokenizer's own template."""

from finery_shared.templates.families import TemplateFamily, family, family_of
from finery_shared.templates.lengths import truncate_left
from finery_shared.templates.render import Prompt, Rendered, render, render_prompt, render_text
from finery_shared.templates.rows import render_row
from finery_shared.templates.stops import default_system, stop_token_ids
from finery_shared.templates.tokenizer import ChatTokenizer, Messages
from finery_shared.templates.tool_parsers import tool_parser_of
from finery_shared.templates.variables import check_variables

__all__ = [
    "ChatTokenizer",
    "Messages",
    "Prompt",
    "Rendered",
    "TemplateFamily",
    "check_variables",
    "default_system",
    "family",
    "family_of",
    "render",
    "render_prompt",
    "render_row",
    "render_text",
    "stop_token_ids",
    "tool_parser_of",
    "truncate_left",
]
