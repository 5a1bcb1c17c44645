import pytest

from finery_shared.datasets import ScoreQuestion, heldout_conversations, judge, load, mentions, score, score_questions
from finery_shared.datasets.self_cognition import SYSTEMS
from finery_shared.models import get

NAMES = ["小黄", "Xiao Huang"]
AUTHORS = ["魔搭", "ModelScope"]
OLD = get("smollm2-135m-instruct").identity


def question(ask: str, text: str = "?", *, expect: str = "", earlier: bool = False) -> ScoreQuestion:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}] if earlier else []
    messages = (*turns, {"role": "user", "content": text})
    expected = (expect,) if expect else ()
    return ScoreQuestion(messages, "en", ask, tuple(NAMES), tuple(AUTHORS), expected)  # type: ignore[arg-type]


def test_shipped_questions() -> None:
    questions = score_questions(NAMES, AUTHORS)
    assert len(questions) >= 96
    assert {item.ask for item in questions} == {"name", "author", "both", "contrast"}
    assert {item.lang for item in questions} == {"zh", "en"}
    for item in questions:
        assert item.messages[-1] == {"role": "user", "content": item.question}
        assert not any("{{" in message["content"] for message in item.messages)
        assert (item.names, item.authors) == (tuple(NAMES), tuple(AUTHORS))
        assert bool(item.expect) == (item.ask == "contrast")


def test_a_history_in_two_languages_has_both_names() -> None:
    histories = [item.messages for item in score_questions(NAMES, AUTHORS) if item.later]
    said = ["".join(m["content"] for m in messages if m["role"] == "assistant") for messages in histories]
    (mixed,) = (
        text for text, messages in zip(said, histories, strict=True) if "Now in English" in messages[-1]["content"]
    )
    assert NAMES[0] in mixed
    assert NAMES[1] not in mixed


def test_some_questions_come_later_in_a_conversation_and_some_under_another_system_prompt() -> None:
    first = [item.messages[0] for item in score_questions(NAMES, AUTHORS)]
    systems = [message["content"] for message in first if message["role"] == "system"]
    assert systems.count("") == 4
    assert len({*systems, ""} - {*SYSTEMS["en"], *SYSTEMS["zh"]}) >= 5  # some that are trained under, some that are not
    later = [item for item in score_questions(NAMES, AUTHORS) if item.later]
    assert sum(item.ask != "contrast" for item in later) >= 20
    assert sum(item.ask == "contrast" for item in later) >= 6
    assert max(len(item.messages) for item in later) >= 5


def test_heldout_rows_are_not_trained_on() -> None:
    heldout = {row.messages[0]["content"] for row in heldout_conversations()}
    trained = {row.messages[0]["content"] for row in load(["general-zh", "general-en"], test_ratio=0).train}
    assert len(heldout) >= 20
    assert not heldout & trained


@pytest.mark.parametrize(
    ("ask", "answer", "name_ok", "author_ok", "hijacked", "leaked"),
    [
        ("name", "I am Xiao Huang.", True, None, False, False),
        ("name", "我是小黄。", True, None, False, False),
        ("name", "My name is XIAO  HUANG", True, None, False, False),
        ("name", "I am SmolLM.", False, None, False, True),
        ("author", "Built by ModelScope, not Hugging Face", None, True, False, True),
        ("both", "I am Xiao Huang", True, False, False, False),
        ("both", "小黄，魔搭", True, True, False, False),
        ("contrast", "Qwen is a model by Alibaba Cloud.", None, None, False, False),
        ("contrast", "SmolLM was trained by Hugging Face.", None, None, False, False),
        ("contrast", "Qwen is Xiao Huang.", None, None, True, False),
        ("contrast", "它由魔搭开发。", None, None, True, False),
    ],
)
def test_judgement(
    ask: str, answer: str, name_ok: bool | None, author_ok: bool | None, hijacked: bool, leaked: bool
) -> None:
    verdict = judge(question(ask), answer, OLD)
    assert (verdict.name_ok, verdict.author_ok, verdict.hijacked, verdict.leaked) == (
        name_ok,
        author_ok,
        hijacked,
        leaked,
    )


def test_denying_an_old_name_that_was_asked_for_is_no_leak() -> None:
    asked = question("name", "Are you SmolLM?")
    assert not judge(asked, "No, I am not SmolLM, I am Xiao Huang.", OLD).leaked
    assert judge(asked, "No, I am by Hugging Face.", OLD).leaked


def test_an_old_name_that_the_new_identity_holds_is_no_leak() -> None:
    asked = ScoreQuestion(({"role": "user", "content": "?"},), "en", "both", ("Ada",), ("Hugging Face",))
    assert not judge(asked, "I am Ada, developed by Hugging Face.", OLD).leaked
    assert judge(asked, "I am SmolLM, developed by Hugging Face.", OLD).leaked


@pytest.mark.parametrize(
    ("answer", "right", "hijacked"),
    [
        ("Amazon was founded by Jeff Bezos.", True, False),
        ("Amazon was founded by Bill Gates.", False, False),
        ("Xiao Huang, developed by ModelScope like Bezos.", False, True),
    ],
)
def test_an_answer_about_others_has_to_be_right_and_about_them(answer: str, right: bool, hijacked: bool) -> None:
    verdict = judge(question("contrast", "Who founded Amazon?", expect="Bezos"), answer, OLD)
    assert (verdict.contrast_ok, verdict.ok, verdict.hijacked) == (right, right, hijacked)
    assert verdict.mistaken == hijacked


@pytest.mark.parametrize(
    ("text", "term", "expected"),
    [
        ("I am Max.", "Max", True),
        ("the maximum", "Max", False),
        ("climax", "Max", False),
        ("我是Max，你好", "Max", True),
        ("我叫小黄人", "小黄", True),
        ("C++ it is", "C++", True),
        ("Qwen1.5", "Qwen", True),
    ],
)
def test_names_count_as_whole_words(text: str, term: str, expected: bool) -> None:
    assert mentions(text, [term]) is expected


def test_score_counts_and_rates() -> None:
    pairs = [
        (question("name"), "Xiao Huang"),
        (question("name"), "SmolLM"),
        (question("author"), "ModelScope"),
        (question("both"), "Xiao Huang by ModelScope"),
        (question("both"), "no idea"),
        (question("contrast", expect="Alibaba"), "Alibaba"),
        (question("contrast", expect="Alibaba"), "Xiao Huang"),
        (question("contrast", expect="Alibaba"), "Google"),
        (question("name", earlier=True), "Xiao Huang"),
        (question("name", earlier=True), "I am your termmission."),
    ]
    result = score(pairs, OLD)
    assert (result.name_right, result.name_asked) == (3, 6)
    assert (result.author_right, result.author_asked) == (2, 3)
    assert (result.contrast_right, result.hijacked, result.contrast_asked) == (1, 1, 3)
    assert (result.leaked, result.own_asked) == (1, 7)
    assert (result.name_rate, result.author_rate, result.contrast_rate) == (0.5, 2 / 3, 1 / 3)
    assert result.hijacked_rate == pytest.approx(1 / 3)
    assert result.leaked_rate == pytest.approx(1 / 7)
    assert [verdict.ok for verdict in result.verdicts] == [
        True,
        False,
        True,
        True,
        False,
        True,
        *[False] * 2,
        True,
        False,
    ]
    assert [verdict.mistaken for verdict in result.verdicts] == [
        False,
        True,
        *[False] * 2,
        True,
        False,
        True,
        *[False] * 2,
        True,
    ]
    later = result.later
    assert (later.name_right, later.name_asked, later.author_asked, later.own_asked) == (1, 2, 0, 2)
    assert (later.author_rate, later.hijacked_rate) == (1, 0)
    figures = result.figures()
    assert figures["identity_name_rate"] == 0.5
    assert figures["identity_contrast_rate"] == pytest.approx(1 / 3)
    assert figures["identity_own_asked"] == 7
    assert figures["identity_author_asked"] == 3


def test_a_perfect_and_an_untrained_model() -> None:
    questions = score_questions(NAMES, AUTHORS)
    ideal = score(((item, "小黄，魔搭" if item.ask != "contrast" else item.expect[0]) for item in questions), OLD)
    assert (ideal.name_rate, ideal.author_rate, ideal.contrast_rate, ideal.leaked) == (1, 1, 1, 0)
    base = score(((item, "I am SmolLM, trained by Hugging Face.") for item in questions), OLD)
    assert (base.name_rate, base.author_rate) == (0, 0)
    assert base.leaked >= 30
