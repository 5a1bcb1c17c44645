import pytest

from finery_shared.datasets import Identity
from finery_shared.datasets.identity import surviving_placeholder
from finery_shared.errors import FineryError, Reason


def test_language_chooses_the_spelling() -> None:
    identity = Identity.of(["小黄", "Xiao Huang"], ["魔搭", "ModelScope"])
    assert identity.fill("我是{{NAME}}，由{{AUTHOR}}开发。", "zh") == "我是小黄，由魔搭开发。"
    assert identity.fill("I am {{ NAME }} by {{AUTHOR}}.", "en") == "I am Xiao Huang by ModelScope."


def test_one_value_serves_both_languages() -> None:
    identity = Identity.of(["Ada"], ["Bob"])
    assert identity.fill("{{NAME}} {{AUTHOR}}", "zh") == identity.fill("{{NAME}} {{AUTHOR}}", "en") == "Ada Bob"
    assert identity.name is not None
    assert identity.name.both == ("Ada",)


def test_values_are_taken_literally() -> None:
    assert Identity.of([r"\1 {x}"]).fill("{{NAME}}", "en") == r"\1 {x}"


def test_without_a_value_the_placeholder_stays_to_be_found() -> None:
    text = Identity.of(["Ada"]).fill("{{NAME}} {{AUTHOR}}", "en")
    assert text == "Ada {{AUTHOR}}"
    assert surviving_placeholder(text) == "{{AUTHOR}}"


@pytest.mark.parametrize("values", [[""], ["小黄", " "], ["", "Ada"]])
def test_empty_values_are_refused(values: list[str]) -> None:
    with pytest.raises(FineryError, match="model_name: an empty value") as caught:
        Identity.of(values)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_three_values_are_refused() -> None:
    with pytest.raises(FineryError, match="model_author: takes one value"):
        Identity.of(["a"], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{{NAME}}", "{{NAME}}"),
        ("x {{ COMPANY_NAME }} y", "{{ COMPANY_NAME }}"),
        (r"\frac{{A}}{{B}}", None),
        ("{{ variable }} {NAME}", None),
    ],
)
def test_what_counts_as_a_placeholder(text: str, found: str | None) -> None:
    assert surviving_placeholder(text) == found
