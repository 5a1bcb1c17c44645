import pytest

from finery_shared.datasets import DatasetSpec, parse
from finery_shared.errors import FineryError, Reason


@pytest.mark.parametrize(
    ("text", "name", "hub", "subset", "count"),
    [
        ("alpaca-zh", "alpaca-zh", None, None, None),
        ("alpaca-zh#500", "alpaca-zh", None, None, 500),
        (" self-cognition#1 ", "self-cognition", None, None, 1),
        ("owner/name", "owner/name", None, None, None),
        ("HF::owner/name:sub#20", "owner/name", "HF", "sub", 20),
        ("ms::owner/name", "owner/name", "MS", None, None),
        ("alpaca:train#5", "alpaca", None, "train", 5),
        ("/data/rows.jsonl#7", "/data/rows.jsonl", None, None, 7),
        ("owner/name:train/test#9", "owner/name", None, "train/test", 9),
        ("./a:b/rows.jsonl", "./a:b/rows.jsonl", None, None, None),
        ("/data/c#/rows.jsonl", "/data/c#/rows.jsonl", None, None, None),
        ("/data/c#/rows.jsonl#9", "/data/c#/rows.jsonl", None, None, 9),
        ("数据.jsonl#3", "数据.jsonl", None, None, 3),
    ],
)
def test_every_form(text: str, name: str, hub: str | None, subset: str | None, count: int | None) -> None:
    spec = parse(text)
    assert (spec.name, spec.hub, spec.subset, spec.count) == (name, hub, subset, count)
    assert spec.text == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the name is missing"),
        ("#500", "the name is missing"),
        ("HF::", "the name is missing"),
        ("a#", "'' is not a number of rows"),
        ("a#0", "'0' is not a number of rows"),
        ("a#-5", "'-5' is not a number of rows"),
        ("a#5k", "'5k' is not a number of rows"),
        ("a#²", "'²' is not a number of rows"),
        ("a:#5", "a subset is missing after the colon"),
        ("a:b//c", "a subset is missing after the colon"),
        ("XX::a", "'XX' is no hub"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    with pytest.raises(FineryError) as caught:
        parse(text)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert problem in caught.value.message
    assert "[HF::|MS::]name|id|path[:subset[/subset]][#N]" in caught.value.message


def test_specs_compare_by_value() -> None:
    assert parse("a#5") == DatasetSpec("a#5", "a", count=5)
