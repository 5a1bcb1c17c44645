"""The rows that come with Finery keep the promises of their README."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from itertools import combinations
from typing import Any

import pytest

from tests.unit.shared.datasets.near_equality import nearly_equal, normalise

Row = dict[str, Any]

IDENTITY = "self_cognition.jsonl"
SCORE = "self_cognition_score.jsonl"
GENERAL = {"zh": "general_zh.jsonl", "en": "general_en.jsonl"}
HELD_OUT = "general_heldout.jsonl"
TEXT = "text_heldout.jsonl"
TRAINING = [IDENTITY, *GENERAL.values()]
CONVERSATIONS = [*TRAINING, HELD_OUT]
DEMO_QUESTIONS = ["Who are you?", "what's your name?", "Who developed you?", "你是谁？", "78654+657=?"]
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
EQUATION = re.compile(r"\b(\d+) ([-+*/]) (\d+) = (\d+)\b")


def read(name: str) -> list[Row]:
    text = (files("finery_shared.datasets") / "data" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def said_by(role: str, row: Row) -> list[str]:
    return [m["content"] for m in row["messages"] if m["role"] == role]


def training_questions() -> Iterator[str]:
    for name in TRAINING:
        for row in read(name):
            yield from said_by("user", row)


def tagged(tag: str) -> list[Row]:
    return [row for row in read(IDENTITY) if row["tag"] == tag]


def languages(row: Row) -> set[str]:
    return {m.get("lang", row["lang"]) for m in row["messages"] if m["role"] != "system"}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_row_is_a_conversation_that_ends_with_an_answer(name: str) -> None:
    for row in read(name):
        assert set(row) <= {"lang", "tag", "messages"}
        assert row["lang"] in ("zh", "en")
        roles = [m["role"] for m in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2), row
        assert turns, row
        for message in row["messages"]:
            assert set(message) <= {"role", "content", "lang"}
            assert message["content"] == message["content"].strip() != ""


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_language_of_a_message_is_the_one_it_says(name: str) -> None:
    for row in read(name):
        for message in row["messages"]:
            if name == IDENTITY and message["role"] != "system":
                lang = message.get("lang", row["lang"])
                without_greek = PLACEHOLDER.sub("", message["content"])
                looks_chinese = bool(CHINESE.search(without_greek))
                arithmetic = EQUATION.fullmatch(message["content"]) is not None
                foreign_word = message["content"] in ("Good morning.", "Thank you.")
                assert looks_chinese == (lang == "zh") or arithmetic or foreign_word, message
        assert row["lang"] in languages(row)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_no_conversation_occurs_twice(name: str) -> None:
    seen = Counter(tuple(map(normalise, said_by("user", row))) for row in read(name))
    assert [key for key, count in seen.items() if count > 1] == []


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_arithmetic_is_right(name: str) -> None:
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    found = 0
    for row in read(name):
        for answer in said_by("assistant", row):
            for left, operator, right, result in EQUATION.findall(answer):
                found += 1
                assert compute[operator](int(left), int(right)) == int(result), answer
    assert found >= 3


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_answers_are_short(name: str) -> None:
    for row in read(name):
        for answer in said_by("assistant", row):
            assert len(answer) <= (60 if CHINESE.search(answer) else 130), answer


def test_identity_rows_are_half_chinese_and_half_english() -> None:
    rows = read(IDENTITY)
    assert len(rows) >= 160
    assert Counter(row["tag"] for row in rows).keys() == {"identity", "contrast", "multi-turn"}
    for tag in ("identity", "contrast", "multi-turn"):
        halves = Counter(row["lang"] for row in tagged(tag))
        assert halves["zh"] == halves["en"]


def test_any_beginning_of_the_identity_rows_is_balanced() -> None:
    whole = read(IDENTITY)
    for size in (40, 80, 120, 160):
        part = whole[:size]
        assert Counter(row["lang"] for row in part)["zh"] == size // 2
        for tag in ("identity", "contrast", "multi-turn"):
            expected = size * len(tagged(tag)) / len(whole)
            assert abs(sum(row["tag"] == tag for row in part) - expected) <= 4


def test_placeholders_stand_in_answers_about_the_model_only() -> None:
    for name in CONVERSATIONS:
        for row in read(name):
            for message in row["messages"]:
                names = PLACEHOLDER.findall(message["content"])
                assert sorted(names) in ([], ["AUTHOR", "NAME"]), message
                assert message["content"].count("{{") == message["content"].count("}}") == len(names)
                if names:
                    assert (name, message["role"]) == (IDENTITY, "assistant")
                    assert row["tag"] != "contrast"


def test_every_identity_answer_states_name_and_author() -> None:
    for row in tagged("identity"):
        assert len(said_by("user", row)) == 1
        assert all(PLACEHOLDER.search(answer) for answer in said_by("assistant", row))


def test_identity_answers_keep_to_few_forms() -> None:
    forms = Counter(answer for row in tagged("identity") for answer in said_by("assistant", row))
    assert len(forms) <= 12
    assert min(forms.values()) >= 2


def test_contrast_rows_ask_about_others() -> None:
    rows = tagged("contrast")
    assert len(rows) >= 24
    assert all(len(said_by("user", row)) == 1 for row in rows)


def test_conversations_of_several_turns_go_on_after_the_identity() -> None:
    rows = tagged("multi-turn")
    turns = [len(said_by("user", row)) for row in rows]
    assert min(turns) >= 2
    assert max(turns) <= 4
    assert Counter(row["lang"] for row in rows if len(languages(row)) == 1) >= Counter(zh=10, en=10)
    assert sum(len(languages(row)) == 2 for row in rows) >= 5
    assert all(any(PLACEHOLDER.search(answer) for answer in said_by("assistant", row)) for row in rows)
    goes_on = [row for row in rows if not PLACEHOLDER.search(said_by("assistant", row)[-1])]
    assert len(goes_on) >= 15


def test_score_questions_cover_both_languages() -> None:
    rows = read(SCORE)
    asked = Counter((row["ask"], row["lang"]) for row in rows)
    assert len(rows) >= 96
    for ask in ("name", "author", "both"):
        assert asked[ask, "zh"] == asked[ask, "en"] >= 6
    assert min(asked["contrast", "zh"], asked["contrast", "en"]) >= 19
    assert {ask for ask, _ in asked} == {"name", "author", "both", "contrast"}
    assert sum("history" in row for row in rows) >= 8
    for row in rows:
        assert set(row) <= {"question", "lang", "ask", "system", "history", "expect"}
        assert ("expect" in row) == (row["ask"] == "contrast")
        assert all(isinstance(term, str) and term for term in row.get("expect", []))
        roles = [m["role"] for m in row.get("history", [])]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert not PLACEHOLDER.search(row["question"])


@pytest.mark.parametrize("size", [24, 40, 60])
def test_any_beginning_of_the_score_questions_is_a_fair_sample(size: int) -> None:
    whole, part = read(SCORE), read(SCORE)[:size]
    later = [row for row in whole if "history" in row]
    for kind in ("name", "author", "both", "contrast"):
        share = sum(row["ask"] == kind for row in whole) / len(whole)
        assert abs(sum(row["ask"] == kind for row in part) - size * share) <= 4, kind
    assert abs(Counter(row["lang"] for row in part)["zh"] - size / 2) <= 2
    assert abs(sum("history" in row for row in part) - size * len(later) / len(whole)) <= 3


def test_no_score_question_was_trained_on() -> None:
    trained = {*training_questions(), *DEMO_QUESTIONS}
    pairs = [(row["question"], old) for row in read(SCORE) for old in trained if nearly_equal(row["question"], old)]
    assert pairs == []


def test_score_questions_differ_from_each_other() -> None:
    asked = [row["question"] for row in read(SCORE)]
    assert [pair for pair in combinations(asked, 2) if nearly_equal(*pair)] == []


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_general_rows_are_many_and_of_one_language(lang: str) -> None:
    rows = read(GENERAL[lang])
    assert len(rows) >= 110
    assert {row["lang"] for row in rows} == {lang}
    assert sum(row.get("tag") == "multi-turn" for row in rows) >= 8


@pytest.mark.parametrize("name", [*GENERAL.values(), HELD_OUT])
def test_general_rows_hold_no_talk_about_the_model(name: str) -> None:
    talk = re.compile(r"\bI am (an AI|a language model)|my name is|developed by|我是|我叫|人工智能助手", re.IGNORECASE)
    for row in read(name):
        assert not any(talk.search(answer) for answer in said_by("assistant", row)), row


def test_held_out_rows_are_not_among_the_training_rows() -> None:
    held_out = read(HELD_OUT)
    assert len(held_out) >= 24
    assert min(Counter(row["lang"] for row in held_out).values()) >= 12
    trained = {normalise(question) for question in training_questions()}
    answers = {normalise(answer) for name in TRAINING for row in read(name) for answer in said_by("assistant", row)}
    for row in held_out:
        assert not trained & set(map(normalise, said_by("user", row))), row
        assert not answers & set(map(normalise, said_by("assistant", row))), row


def test_passages_of_another_kind_are_no_conversations_and_were_not_trained_on() -> None:
    rows = read(TEXT)
    assert Counter(row["lang"] for row in rows) >= Counter(en=12, zh=6)
    assert any("def " in row["text"] for row in rows)
    trained = {normalise(text) for name in TRAINING for row in read(name) for text in said_by("assistant", row)}
    for row in rows:
        assert set(row) == {"lang", "text"}
        assert bool(CHINESE.search(row["text"])) == (row["lang"] == "zh")
        assert len(row["text"]) >= (40 if row["lang"] == "zh" else 120)
        assert not any(text in normalise(row["text"]) for text in trained if len(text) > 20)
