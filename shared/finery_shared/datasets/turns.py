"""Which turns make a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finery_shared.datasets.conversation import Turn
from finery_shared.datasets.problems import RowProblem


def checked(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Check turns: optional system, then user and assistant in turn, the assistant last, no blanks.

    After an assistant's tool calls come the tools' answers, and then the assistant again. Raises RowProblem.
    """
    rest = turns[1:] if turns and turns[0].role == "system" else turns
    if not rest:
        raise RowProblem("it has no messages")
    before: Turn | None = None
    calls: set[str] = set()
    for index, turn in enumerate(rest, start=1):
        due = _due(before)
        if turn.role not in due:
            raise RowProblem(f"message {index} is from {turn.role} where {' or '.join(due)} is due (they take turns)")
        calls |= {call["id"] for call in turn.tool_calls if "id" in call}
        if turn.tool_call_id and turn.tool_call_id not in calls:
            raise RowProblem(f"message {index} answers the tool call {turn.tool_call_id!r}, which was not made")
        before = turn
    if rest[-1].role != "assistant":
        raise RowProblem(f"it ends with the {rest[-1].role}: an assistant's answer has to come last")
    blank = next((turn.role for turn in turns if _is_blank(turn)), None)
    if blank is not None:
        raise RowProblem(f"the {blank}'s text is empty")
    return tuple(replace(turn, content=_trimmed(turn)) for turn in turns)


def _due(before: Turn | None) -> tuple[str, ...]:
    if before is None:
        return ("user",)
    if before.role == "tool":
        return ("tool", "assistant")
    if before.role == "assistant":
        return ("tool",) if before.tool_calls else ("user",)
    return ("assistant",)


def _is_blank(turn: Turn) -> bool:
    """A tool may answer nothing, and a call needs no words."""
    return not turn.content.strip() and not turn.tool_calls and turn.role != "tool"


def _trimmed(turn: Turn) -> str:
    """Drop space at a text's ends; a question that starts with an indented line keeps its indent.

    Space before an answer would melt into the newline that chat templates put there, so that training would see a
    prompt which serving never sends.
    """
    if turn.role == "assistant" or not turn.content.strip():
        return turn.content.strip()
    lines = turn.content.rstrip().split("\n")
    first = next(index for index, line in enumerate(lines) if line.strip())
    return "\n".join(lines[first:])
