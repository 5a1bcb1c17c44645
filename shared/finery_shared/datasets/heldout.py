"""Text that nothing is ever trained on, to see what a model still knows."""

from __future__ import annotations

from finery_shared.datasets import registry
from finery_shared.datasets.conversation import Conversation
from finery_shared.datasets.files import read_rows
from finery_shared.datasets.grammar import parse
from finery_shared.datasets.identity import Identity
from finery_shared.datasets.loader import read_conversations
from finery_shared.datasets.source import Source

GENERAL_FILE = registry.DATA / "general_heldout.jsonl"
TEXT_FILE = registry.DATA / "text_heldout.jsonl"


def heldout_conversations() -> tuple[Conversation, ...]:
    """General rows of the kind that is trained on: question and reference answer."""
    rows, _ = read_conversations(parse("general-heldout"), Source(GENERAL_FILE, None, trusted=True), Identity())
    return tuple(rows)


def heldout_texts() -> tuple[str, ...]:
    """Passages of another kind, which are no conversations: stories, reports, letters, recipes, code."""
    return tuple(str(raw.fields["text"]) for raw in read_rows(TEXT_FILE))
