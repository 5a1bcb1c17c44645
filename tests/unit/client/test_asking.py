"""Questions, answers and history, with a talker that repeats what it hears."""

import threading
from collections.abc import Iterator, Sequence

from finery_client import Message, Model, Question, Sampling


class Echo:
    """Says the number of messages and the last one; holds all answers until so many are asked for at once."""

    def __init__(self, together: int = 1) -> None:
        self.heard: list[tuple[list[Message], Sampling | None]] = []
        self._together = threading.Barrier(together)

    def complete(self, messages: Sequence[Message], sampling: Sampling | None = None) -> str:
        self._together.wait(10)
        self.heard.append((list(messages), sampling))
        return f"{len(messages)}: {messages[-1]['content']}"

    def stream(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[str]:
        yield from (f"{len(messages)}: ", messages[-1]["content"])


def test_each_answer_comes_with_the_history_for_the_next_question() -> None:
    model = Model(Echo())
    response, history = model.ask("a")
    assert response == "1: a"
    response, history = model.ask("b", history)
    assert response == "3: b"
    assert [(turn["role"], turn["content"]) for turn in history] == [
        ("user", "a"),
        ("assistant", "1: a"),
        ("user", "b"),
        ("assistant", "3: b"),
    ]


def test_a_system_prompt_is_said_first_and_is_no_part_of_the_history() -> None:
    echo = Echo()
    _, history = Model(echo, "Be brief.").ask("a", max_tokens=4, seed=1)
    messages, sampling = echo.heard[0]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert sampling == {"max_tokens": 4, "seed": 1}
    assert [turn["role"] for turn in history] == ["user", "assistant"]


def test_several_questions_are_asked_side_by_side_and_answered_in_order() -> None:
    _, history = Model(Echo()).ask("a")
    answers = Model(Echo(together=3)).ask_all(["x", Question("y", history), "z"])
    assert [answer.response for answer in answers] == ["1: x", "3: y", "1: z"]
    assert len(answers[1].history) == 4
    assert history == answers[1].history[:2]


def test_a_stream_grows_into_an_answer() -> None:
    stream = Model(Echo()).stream("a", [{"role": "user", "content": "b"}])
    seen = [(piece, stream.response) for piece in stream]
    assert seen == [("2: ", "2: "), ("a", "2: a")]
    assert stream.history[-1] == {"role": "assistant", "content": "2: a"}
    assert len(stream.history) == 3
