"""Asking the deployed model, through the OpenAI client."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import OpenAI
from rich.progress import track

from finery_client.cli.screen import Screen
from finery_shared.datasets.scoring import ANSWER_TOKENS, IdentityScore, ScoreQuestion, score, score_questions

WHOLE = ("Who are you?", "what's your name?", "Who developed you?", "你是谁？")
STREAMED = ("78654+657=?",)

_PARALLEL = 16
_LONGEST_ANSWER = 128


def converse(client: OpenAI, screen: Screen) -> None:
    """One growing conversation, as in the guide: whole answers first, then streamed ones."""
    model = client.models.list().data[0].id
    screen.result(f"model_type: {model}")
    messages: list[Any] = []
    for query in WHOLE:
        messages.append({"role": "user", "content": query})
        answer = client.chat.completions.create(
            model=model, messages=messages, seed=42, temperature=0, max_tokens=_LONGEST_ANSWER
        )
        response = answer.choices[0].message.content
        screen.result(f"query: {query}\nresponse: {response}")
        messages.append({"role": "assistant", "content": response})
    for query in STREAMED:
        messages.append({"role": "user", "content": query})
        chunks = client.chat.completions.create(
            model=model, messages=messages, stream=True, seed=42, temperature=0, max_tokens=_LONGEST_ANSWER
        )
        screen.result(f"query: {query}\nresponse: ", end="")
        response = ""
        for chunk in chunks:
            piece = chunk.choices[0].delta.content or ""
            response += piece
            screen.result(piece, end="")
        screen.result("")
        messages.append({"role": "assistant", "content": response})


def score_identity(
    client: OpenAI, names: Sequence[str], authors: Sequence[str], old: Sequence[str], screen: Screen
) -> IdentityScore:
    """Ask the questions that no training row comes near, several at once and greedily, and judge the answers."""
    model = client.models.list().data[0].id
    questions = score_questions(names, authors)

    def ask(question: ScoreQuestion) -> str:
        messages: list[Any] = list(question.messages)
        answer = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=ANSWER_TOKENS)
        return answer.choices[0].message.content or ""

    with ThreadPoolExecutor(_PARALLEL) as pool:
        answers = pool.map(ask, questions)
        shown = track(
            answers,
            "asking",
            total=len(questions),
            console=screen.remarks,
            disable=not screen.interactive,
            transient=True,
        )
        return score(zip(questions, shown, strict=True), old)


def show_wrong(result: IdentityScore, screen: Screen, limit: int = 8) -> None:
    """The first answers in which the model is wrong about who it is."""
    wrong = [verdict for verdict in result.verdicts if verdict.mistaken]
    for verdict in wrong[:limit]:
        screen.warn(f"  wrong ({verdict.question.ask}): {verdict.question.question} -> {verdict.answer}")
    if len(wrong) > limit:
        screen.warn(f"  and {len(wrong) - limit} more")
