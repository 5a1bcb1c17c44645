"""Data sets: the ``--dataset`` grammar, row formats, placeholders, sampling, and the self-cognition score."""

from finery_shared.datasets.conversation import Conversation, Message, language_of
from finery_shared.datasets.grammar import DatasetSpec, parse
from finery_shared.datasets.heldout import heldout_conversations, heldout_texts
from finery_shared.datasets.identity import Bilingual, Identity
from finery_shared.datasets.loader import LoadedDatasets, load, select
from finery_shared.datasets.registry import names
from finery_shared.datasets.scoring import (
    ANSWER_TOKENS,
    IdentityScore,
    ScoreQuestion,
    Verdict,
    judge,
    mentions,
    score,
    score_questions,
)
from finery_shared.datasets.selection import DatasetReport, Selection

__all__ = [
    "ANSWER_TOKENS",
    "Bilingual",
    "Conversation",
    "DatasetReport",
    "DatasetSpec",
    "Identity",
    "IdentityScore",
    "LoadedDatasets",
    "Message",
    "ScoreQuestion",
    "Selection",
    "Verdict",
    "heldout_conversations",
    "heldout_texts",
    "judge",
    "language_of",
    "load",
    "mentions",
    "names",
    "parse",
    "score",
    "score_questions",
    "select",
]
