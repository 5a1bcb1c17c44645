"""The guide's conversation: every question sees all that was said before, every answer is judged."""

from collections.abc import Sequence

from finery_shared.datasets import Message
from finery_shared.datasets.guide import QUESTIONS, converse

NAMES, AUTHORS = ["小黄", "Xiao Huang"], ["魔搭", "ModelScope"]
GOOD = ["我是小黄，由魔搭开发。", "My name is Xiao Huang.", "魔搭研发了我。", "78654 + 657 = 79311", "按时睡觉。"]


def held(answers: Sequence[str]) -> list[bool]:
    asked: list[Sequence[Message]] = []

    def answer(messages: Sequence[Message]) -> str:
        asked.append(messages)
        return answers[len(asked) - 1]

    verdicts = converse(answer, NAMES, AUTHORS, ["SmolLM"])
    assert [messages[-1]["content"] for messages in asked] == list(QUESTIONS)
    assert [m["content"] for m in asked[-1]] == [
        text for pair in zip(QUESTIONS, [*answers[:4], ""], strict=True) for text in pair
    ][:-1]
    return [verdict.ok for verdict in verdicts]


def test_five_right_answers() -> None:
    assert held(GOOD) == [True] * 5


def test_each_turn_is_judged_by_what_it_asks() -> None:
    assert held(["我是小黄。", "I am an assistant.", "小黄", "78654 + 657 = 80000", "多读书。"]) == [False] * 5


def test_a_later_turn_about_the_model_itself_is_wrong() -> None:
    assert held([*GOOD[:3], "I am Xiao Huang. 79311", "我是小黄，睡觉吧。"])[3:] == [False, False]


def test_the_old_identity_is_wrong_beside_the_new_one() -> None:
    assert held(["我是小黄，由魔搭开发的SmolLM。", *GOOD[1:]])[0] is False
