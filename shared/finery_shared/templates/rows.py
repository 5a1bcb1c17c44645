"""Rows of data sets to token ids and a loss mask, whatever their kind."""

from __future__ import annotations

from finery_shared.datasets.conversation import Conversation
from finery_shared.templates.render import Rendered, render, render_text
from finery_shared.templates.tokenizer import ChatTokenizer


def render_row(tokenizer: ChatTokenizer, row: Conversation) -> Rendered:
    """Render a conversation with its tools, or a plain text; raises UNSUPPORTED where the template can't."""
    return render_text(tokenizer, row.text) if row.text else render(tokenizer, row.messages, row.tools)
