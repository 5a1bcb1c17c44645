"""From drawn rows to rows to train on: what is kept, what is cut, what is left out and said, and what is cached."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from finery_shared.datasets import Conversation, select
from finery_shared.errors import FineryError, Reason
from finery_shared.templates import render, render_row
from finery_trainer.recipes import tokenizing
from finery_trainer.recipes.prepare import PreparedData, prepare
from finery_trainer.recipes.row_cache import RowCache, content_key
from finery_trainer.recipes.rows import IGNORED, Fitted, LeftOut, Row, Why, fit
from finery_trainer.recipes.tokenizing import CHUNK, Tokenizing, processes_for, tokenize
from tests.fakes.qwen_tokenizer import write_qwen_tokenizer

LONG = " ".join(f"word{number}" for number in range(100))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen_tokenizer(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def cache(tmp_path: Path) -> RowCache:
    return RowCache(tmp_path / "cache")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"query": f"question {number}", "response": f"answer {number}"} for number in range(count)]


class Hub:
    """A hub with one data set."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def check(self, dataset_id: str) -> None:
        """It answers."""

    def fetch(self, dataset_id: str) -> Path:
        return self._directory


def numbers(tokenizer: Any, rows: Any) -> list[str]:
    """What the rows answer."""
    return [tokenizer.decode([label for label in row.labels if label != IGNORED]) for row in rows]


def test_rows_are_those_of_the_template_in_the_drawn_order(
    directory: Path, tokenizer: Any, cache: RowCache, tmp_path: Path
) -> None:
    selection = select([write(tmp_path / "a.jsonl", pairs(30)) + "#50", "general-zh#20"], test_ratio=0.1, seed=5)
    data = prepare(selection, Tokenizing(directory, 2048, "delete"), cache)
    rows = list(selection.rows())
    for chosen, order in ((data.train, selection.train), (data.val, selection.val)):
        expected = [render(tokenizer, rows[number].messages) for number in order]
        assert list(chosen) == [Row(row.token_ids, tuple(row.labels())) for row in expected]
        assert list(chosen.lengths) == [len(row.token_ids) for row in expected]
    assert (len(data.train), len(data.val)) == (47 + 18, 3 + 2)
    assert data.tokens == sum(data.train.lengths)
    assert list(data.train[3:5]) == [data.train[3], data.train[4]]


def prepared(directory: Path, cache: RowCache, path: str, strategy: Any) -> PreparedData:
    return prepare(select([path], test_ratio=0), Tokenizing(directory, 60, strategy), cache)


@pytest.fixture
def uneven(tmp_path: Path) -> str:
    long_question, long_answer = {"query": LONG, "response": "ok"}, {"query": "go on", "response": LONG}
    return write(tmp_path / "a.jsonl", [*pairs(5), long_question, long_answer, {"text": LONG}, {"text": "Short."}])


def test_long_rows_are_left_out_and_counted(directory: Path, cache: RowCache, uneven: str) -> None:
    data = prepared(directory, cache, uneven, "delete")
    assert len(data.train) == 6
    (dropped,) = data.dropped
    assert (dropped.dataset, dropped.why, dropped.count) == (uneven, Why.TOO_LONG, 3)
    figures = data.figures()
    assert (figures["rows_train"], figures["rows_left_out"], figures["rows_too_long"]) == (6, 3, 3)
    assert data.metrics()[f"rows_too_long/{uneven}"] == 3
    assert data.longest > 200
    assert f"{uneven}: 3 rows left out, longer than --max_length (the first has " in "\n".join(data.lines())
    assert data.lines()[-1].startswith(f"6 rows to train on ({data.tokens} tokens), 0 to evaluate on, 3 left out; ")


def test_long_rows_lose_their_beginning(directory: Path, tokenizer: Any, cache: RowCache, uneven: str) -> None:
    data = prepared(directory, cache, uneven, "truncation_left")
    assert (len(data.train), data.left_out, data.cut) == (9, 0, 3)
    assert max(data.train.lengths) == 60
    assert data.longest > 200
    assert all(any(label != IGNORED for label in row.labels[1:]) for row in data.train)
    answers = numbers(tokenizer, data.train)
    assert "ok<|im_end|>" in answers
    assert sum(answer.endswith("word99<|im_end|>") for answer in answers) == 2
    assert "3 cut to --max_length" in data.lines()[-1]


def test_a_repeated_row_counts_each_time(directory: Path, cache: RowCache, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*pairs(3), {"query": LONG, "response": "ok"}])
    data = prepare(select([path + "#40"], test_ratio=0), Tokenizing(directory, 60, "delete"), cache)
    assert (len(data.train), data.left_out) == (30, 10)


def test_nothing_left_is_an_error_with_the_remedy(directory: Path, cache: RowCache, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": LONG, "response": "ok"}] * 2)
    with pytest.raises(FineryError, match=r"None of the 2 rows .* --max_length 60 .*truncation_left") as caught:
        prepare(select([path], test_ratio=0), Tokenizing(directory, 60, "delete"), cache)
    assert caught.value.reason is Reason.DATASET_EMPTY


CALLS = {
    "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "tool_call", "content": '{"name": "weather", "arguments": {"city": "Paris"}}'},
        {"role": "tool", "content": "Sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]
}


def test_a_row_that_the_template_has_no_place_for_is_named(directory: Path, cache: RowCache, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*pairs(3), CALLS])
    with pytest.raises(FineryError, match=r"a\.jsonl, line 4: .*it leaves out tool calls") as caught:
        prepare(select([path], test_ratio=0), Tokenizing(directory, 60, "delete"), cache)
    assert caught.value.reason is Reason.UNSUPPORTED


def test_a_hubs_row_that_the_template_has_no_place_for_is_left_out(
    directory: Path, cache: RowCache, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", [*pairs(3), CALLS])
    selection = select(["owner/name"], test_ratio=0, hubs={"HF": Hub(tmp_path)})
    data = prepare(selection, Tokenizing(directory, 60, "delete"), cache)
    assert [(dropped.why, dropped.count) for dropped in data.dropped] == [(Why.NOT_RENDERED, 1)]
    assert "owner/name: 1 rows left out, not rendered by the chat template (the first: a.jsonl, line 4" in str(
        data.dropped[0]
    )


def test_one_token_teaches_nothing(tokenizer: Any) -> None:
    text = Conversation((), "en", text="<|im_end|>")
    assert fit(tokenizer, text, 60, "delete") == LeftOut(Why.NOTHING_TO_LEARN, 1)
    fitted = fit(tokenizer, Conversation((), "en", text="Hello!"), 60, "delete")
    assert fitted == Fitted((9707, 0, 151645), (0, 1, 1), 3)


def test_the_same_content_is_tokenized_once(directory: Path, cache: RowCache, uneven: str, tmp_path: Path) -> None:
    done: list[int] = []

    def rows(max_length: int = 60, seed: int = 1, path: str = uneven) -> PreparedData:
        return prepare(select([path], seed=seed), Tokenizing(directory, max_length, "delete"), cache, done.append)

    first = rows()
    assert done == [9]
    assert list(rows().train) == list(first.train)
    assert list(rows(seed=2).train) != list(first.train)
    rows(path=str(shutil.copy(uneven, tmp_path / "copy.jsonl")))
    assert len(done) == 1
    rows(max_length=61)
    assert len(done) == 2
    Path(uneven).write_text(Path(uneven).read_text().replace("answer 1", "answer I"))
    rows()
    assert len(done) == 3


def test_a_crash_leaves_nothing_half_made(directory: Path, cache: RowCache, uneven: str, tmp_path: Path) -> None:
    def fail(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(select([uneven]), Tokenizing(directory, 60, "delete"), cache, fail)
    assert not list((tmp_path / "cache").glob("*.arrow"))
    assert not list((tmp_path / "cache").glob("*.begun"))
    assert len(prepared(directory, cache, uneven, "delete").train) == 6


@pytest.mark.parametrize("left", [0, 100, 2000])
def test_a_broken_file_is_made_again(directory: Path, cache: RowCache, uneven: str, tmp_path: Path, left: int) -> None:
    whole = list(prepared(directory, cache, uneven, "delete").train)
    (path,) = (tmp_path / "cache").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:left])
    assert list(prepared(directory, cache, uneven, "delete").train) == whole


def test_the_cache_stays_within_its_bounds(tmp_path: Path) -> None:
    cache = RowCache(tmp_path, most_bytes=250)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda path: path.write_bytes(b"x" * 100) and None)
    assert sorted(path.stem for path in tmp_path.glob("*.arrow")) == ["a", "c"]
    cache.get("huge", lambda path: path.write_bytes(b"x" * 1000) and None)
    assert [path.stem for path in tmp_path.glob("*.arrow")] == ["huge"]


def test_the_tokenizer_is_part_of_the_key(tmp_path: Path) -> None:
    directory = write_qwen_tokenizer(tmp_path)
    first = content_key("rows", directory, 60)
    assert content_key("rows", directory, 60) == first
    assert len({first, content_key("rows", directory, 61), content_key("other", directory, 60)}) == 3
    config = directory / "tokenizer_config.json"
    config.write_text(config.read_text().replace("helpful", "useful"))
    assert content_key("rows", directory, 60) != first


@dataclass(frozen=True)
class Signing(Tokenizing):
    """Leaves the number of every process that makes rows."""

    def load(self) -> Any:
        (self.tokenizer / f"{os.getpid()}.pid").touch()
        return super().load()


def test_processes_give_the_same_rows_in_the_same_order(directory: Path, tokenizer: Any, tmp_path: Path) -> None:
    rows = [
        Conversation(({"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}), "en")
        for n in range(3 * CHUNK + 5)
    ]
    done, processes = list[int](), set[int | None]()

    def tick(count: int) -> None:
        done.append(count)
        processes.update(child.pid for child in multiprocessing.active_children())

    own = write_qwen_tokenizer(tmp_path / "tokenizer")
    made = list(tokenize(Signing(own, 60, "delete"), iter(rows), 2, tick))
    assert [row.input_ids for row in made if isinstance(row, Fitted)] == [
        render_row(tokenizer, row).token_ids for row in rows
    ]
    assert done == [CHUNK, 2 * CHUNK, 3 * CHUNK, 3 * CHUNK + 5]
    assert len(processes) == 2
    assert set() < {int(path.stem) for path in own.glob("*.pid")} <= processes


@pytest.mark.parametrize(
    ("cores", "rows", "processes"), [(4, 21_332, 1), (4, 21_333, 4), (2, 31_998, 1), (2, 31_999, 2), (1, 10**9, 1)]
)
def test_processes_are_started_when_enough_rows_are_spared_this_one(
    monkeypatch: pytest.MonkeyPatch, cores: int, rows: int, processes: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert processes_for(rows) == processes


def test_many_rows_are_prepared_by_processes(
    directory: Path, cache: RowCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(tokenizing, "WORTH_PROCESSES", 9)
    own = write_qwen_tokenizer(tmp_path / "tokenizer")
    for name, count in (("few", 16), ("many", 17)):
        selection = select([write(tmp_path / f"{name}.jsonl", pairs(count))], test_ratio=0)
        assert len(prepare(selection, Signing(own, 60, "delete"), cache).train) == count
        assert (own / f"{os.getpid()}.pid").exists() == (name == "few")
        for path in own.glob("*.pid"):
            path.unlink()


def test_rows_are_taken_from_the_source_as_they_are_needed(directory: Path) -> None:
    taken = 0

    def source() -> Iterator[Conversation]:
        nonlocal taken
        for _ in range(5 * CHUNK):
            taken += 1
            yield Conversation(({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}), "en")

    rows = tokenize(Tokenizing(directory, 60, "delete"), source(), 1)
    for _ in range(CHUNK + 1):
        next(rows)
    assert taken == 2 * CHUNK
