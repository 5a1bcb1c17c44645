"""Chat templates: messages to token ids and a loss mask, by the tokenizer's own template."""

from finery_shared.templates.families import TemplateFamily, family, family_of
from finery_shared.templates.lengths import LengthReport, split_by_length
from finery_shared.templates.render import Prompt, Rendered, render, render_prompt
from finery_shared.templates.stops import default_system, stop_token_ids
from finery_shared.templates.tokenizer import ChatTokenizer, Messages

__all__ = [
    "ChatTokenizer",
    "LengthReport",
    "Messages",
    "Prompt",
    "Rendered",
    "TemplateFamily",
    "default_system",
    "family",
    "family_of",
    "render",
    "render_prompt",
    "split_by_length",
    "stop_token_ids",
]
