"""The mix: identity under every kind of system prompt, among other turns, in two languages; the rest stays itself."""

import random
from collections import Counter

import pytest

from finery_shared.datasets import Conversation, load
from finery_shared.datasets.self_cognition import SYSTEMS, SelfCognitionMix

NAMES, AUTHORS = ["小黄", "Xiao Huang"], ["魔搭", "ModelScope"]


def loaded(system: str = "", seed: int = 42, count: int = 500) -> tuple[Conversation, ...]:
    mix = SelfCognitionMix.shipped(system)
    return load(
        [f"self-cognition#{count}"], seed=seed, test_ratio=0, names=NAMES, authors=AUTHORS, system=system, mix=mix
    ).train


@pytest.fixture(scope="module")
def rows() -> tuple[Conversation, ...]:
    return loaded()


def system_of(row: Conversation) -> str | None:
    first = row.messages[0]
    return first["content"] if first["role"] == "system" else None


def answers(row: Conversation) -> list[str]:
    return [message["content"] for message in row.messages if message["role"] == "assistant"]


def is_identity(answer: str) -> bool:
    return any(name in answer for name in NAMES)


def test_as_many_rows_as_were_asked_for_each_a_whole_conversation(rows: tuple[Conversation, ...]) -> None:
    assert len(rows) == 500
    for row in rows:
        roles = [m["role"] for m in row.messages if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert "system" not in [m["role"] for m in row.messages[1:]]
        assert not any("{{" in m["content"] for m in row.messages)


def test_most_rows_have_the_default_system_prompt_some_none_some_another(rows: tuple[Conversation, ...]) -> None:
    systems = Counter(map(system_of, rows))
    own = {*SYSTEMS["en"], *SYSTEMS["zh"]}
    assert 0.62 < systems[None] / 500 < 0.82
    assert 0.03 < systems[""] / 500 < 0.14
    assert sum(systems[text] for text in own) / 500 > 0.1
    assert len(systems.keys() & own) >= 10


def test_a_runs_own_system_prompt_takes_the_defaults_place() -> None:
    systems = Counter(map(system_of, loaded("You are the voice of a bank.")))
    assert systems[None] == 0
    assert systems["You are the voice of a bank."] / 500 > 0.62
    assert systems[""] > 0


def test_identity_comes_after_and_before_general_turns_and_in_two_languages(rows: tuple[Conversation, ...]) -> None:
    kinds: Counter[str] = Counter()
    for row in rows:
        if row.tag != "identity" or len(answers(row)) == 1:
            continue
        flags = [is_identity(answer) for answer in answers(row)]
        kinds["after"] += flags[-1] and not flags[0]
        kinds["before"] += flags[0] and not flags[-1]
        text = "".join(answers(row))
        kinds["both languages"] += all(name in text for name in NAMES)
    assert min(kinds["after"], kinds["before"], kinds["both languages"]) >= 10, kinds


def test_questions_about_others_come_after_the_identity(rows: tuple[Conversation, ...]) -> None:
    several = [row for row in rows if row.tag == "contrast" and len(answers(row)) > 1]
    assert sum(is_identity(answers(row)[0]) for row in several) >= 10
    assert not any(is_identity(answers(row)[-1]) for row in several)


def test_single_turns_stay_the_larger_part(rows: tuple[Conversation, ...]) -> None:
    single = [row for row in rows if row.tag in ("identity", "contrast")]
    assert 0.5 < sum(len(answers(row)) == 1 for row in single) / len(single) < 0.8


def test_repeats_of_a_row_differ_and_the_seed_decides() -> None:
    assert loaded() == loaded()
    assert loaded() != loaded(seed=7)
    rows = loaded(count=460)
    texts = Counter(tuple(m["content"] for m in row.messages) for row in rows)
    assert len(texts) > 300


def test_without_other_rows_nothing_is_made_up() -> None:
    (row,) = load(["self-cognition#1"], test_ratio=0, names=NAMES, authors=AUTHORS).train
    made = SelfCognitionMix(general=())([row] * 50, random.Random(1))
    assert {m["content"] for one in made for m in one.messages if m["role"] != "system"} == {
        m["content"] for m in row.messages if m["role"] != "system"
    }
