from dataclasses import dataclass
from pathlib import Path

import pytest

from finery_quantizer.backends.checkpoint.tokenizer import load_tokenizer
from finery_quantizer.calibration import calibration_rows, choose_datasets, cut_blocks
from finery_quantizer.request import DEFAULT_DATASETS, ExportRequest, TrainingRecipe
from finery_shared.datasets import Conversation, Message
from finery_shared.errors import FineryError, Reason
from finery_shared.templates.render import render
from finery_shared.templates.tokenizer import ChatTokenizer
from tests.unit.quantizer.models import write_tokenizer

IDENTITY = TrainingRecipe(
    datasets=("self-cognition#60", "general-en#20"),
    model_names=("小黄", "Xiao Huang"),
    model_authors=("魔搭", "ModelScope"),
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> ChatTokenizer:
    write_tokenizer(tmp_path)
    return load_tokenizer(tmp_path)


def row(text: str) -> Conversation:
    return Conversation((Message(role="user", content=text), Message(role="assistant", content=text)), "en")


def test_long_rows_are_cut_and_nothing_but_a_remainder_is_lost(tokenizer: ChatTokenizer) -> None:
    rows = [row("a" * 150), row("b" * 10), row("c" * 33)]
    stream = [token for r in rows for token in render(tokenizer, r.messages).token_ids]
    blocks = cut_blocks(tokenizer, rows, 100, at_least=1, at_most=None)
    assert blocks.available == len(stream)
    assert len({len(block) for block in blocks.ids}) == 1
    assert len(blocks.ids[0]) <= 100
    joined = [token for block in blocks.ids for token in block]
    assert joined == stream[: len(joined)]
    assert len(stream) - len(joined) < len(blocks.ids)


def test_plain_text_calibrates_too(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once upon a time.\nOnce upon a time.\nThe end.\n")
    rows = calibration_rows([str(tmp_path / "story.txt")], ExportRequest(), TrainingRecipe())
    assert sorted(row.text for row in rows) == ["Once upon a time.", "The end."]
    blocks = cut_blocks(tokenizer, rows, 100, at_least=1, at_most=None)
    assert blocks.available >= len(tokenizer.encode("Once upon a time.The end.", add_special_tokens=False))


def test_blocks_are_no_longer_than_rows_need(tokenizer: ChatTokenizer) -> None:
    short = cut_blocks(tokenizer, [row("a" * 50)] * 20, 2048, at_least=1, at_most=None)
    assert max(map(len, short.ids)) <= 512
    long = cut_blocks(tokenizer, [row("a" * 50)] * 20 + [row("b" * 600)], 2048, at_least=1, at_most=None)
    assert max(map(len, long.ids)) > 1000


def test_the_limit_of_tokens_holds(tokenizer: ChatTokenizer) -> None:
    blocks = cut_blocks(tokenizer, [row("a" * 500)], 64, at_least=1, at_most=256)
    assert blocks.used == 256
    assert blocks.available > 1000


def test_too_few_tokens_are_an_error_with_the_remedy(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(FineryError, match=r"fewer than the 512.*--quant_n_samples") as caught:
        cut_blocks(tokenizer, [row("hello")], 2048, at_least=512, at_most=None)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    with pytest.raises(FineryError) as caught:
        cut_blocks(tokenizer, [], 2048, at_least=512, at_most=None)
    assert caught.value.reason is Reason.DATASET_EMPTY


def test_rows_are_distinct_filled_and_decided_by_the_seed() -> None:
    request = ExportRequest(quant_n_samples=70)
    rows = calibration_rows(IDENTITY.datasets, request, IDENTITY)
    assert len(rows) == 70
    assert len({str(r.messages) for r in rows}) == 70
    assert rows == calibration_rows(IDENTITY.datasets, request, IDENTITY)
    assert rows != calibration_rows(IDENTITY.datasets, ExportRequest(quant_n_samples=70, dataset_seed=7), IDENTITY)
    text = str([r.messages for r in rows])
    assert "Xiao Huang" in text
    assert "{{" not in text


@dataclass
class Case:
    asked: tuple[str, ...]
    trained: tuple[str, ...]
    chosen: tuple[str, ...]


@pytest.mark.parametrize(
    "case",
    [
        Case(("general-en#5",), ("general-zh",), ("general-en#5",)),
        Case((), ("general-zh#9",), ("general-zh#9",)),
        Case((), (), DEFAULT_DATASETS),
        Case((), ("/no/longer/there.jsonl",), DEFAULT_DATASETS),
        Case((), ("self-cognition",), DEFAULT_DATASETS),  # whose placeholders nothing would fill
    ],
)
def test_data_sets_are_those_asked_for_else_those_trained_on_else_general(case: Case) -> None:
    recipe = TrainingRecipe(datasets=case.trained)
    assert choose_datasets(ExportRequest(datasets=case.asked), recipe) == case.chosen


def test_an_unknown_data_set_that_was_asked_for_is_an_error_at_once() -> None:
    with pytest.raises(FineryError, match="general-en") as caught:
        choose_datasets(ExportRequest(datasets=("genral-en",)), IDENTITY)
    assert caught.value.reason is Reason.DATASET_NOT_FOUND
