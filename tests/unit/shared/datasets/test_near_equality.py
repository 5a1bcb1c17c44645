import pytest

from tests.unit.shared.datasets.near_equality import nearly_equal, within_one_edit


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Who are you?", "who are  YOU"),
        ("What's your name?", "What is your name?"),
        ("Who developed you?", "Who's developed you?"),
        ("Which company developed you?", "Which company has developed you?"),
        ("你是谁？", "您是谁呀"),
        ("你是谁", "你是啥"),
        ("你叫什么名字？", "你叫什么名字呢"),
        ("你是哪家公司开发的？", "你是哪个公司开发的？"),
        ("７８６５４+657=?", "78654 + 657 = ?"),
    ],
)
def test_the_same_question_in_other_clothes_is_caught(left: str, right: str) -> None:
    assert nearly_equal(left, right)
    assert nearly_equal(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Who are you?", "Who made you?"),
        ("What's your name?", "Could I have your name?"),
        ("谁开发了你？", "谁训练了你？"),
        ("你是谁？", "你叫什么？"),
    ],
)
def test_another_question_is_not(left: str, right: str) -> None:
    assert not nearly_equal(left, right)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("", "", True),
        ("", "x", True),
        ("abc", "abc", True),
        ("abc", "abd", True),
        ("abc", "xbc", True),
        ("abc", "ac", True),
        ("abc", "abcd", True),
        ("abc", "bcd", False),
        ("ab", "ba", False),
        ("abc", "a", False),
    ],
)
def test_one_edit(a: str, b: str, expected: bool) -> None:
    assert within_one_edit(a, b) is expected
    assert within_one_edit(b, a) is expected
