"""`load`, on the shipped sets, on files of its own and on a fake hub."""

import json
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from finery_shared.datasets import Conversation, LoadedDatasets, load, select
from finery_shared.errors import FineryError, Reason

NAMES = ["小黄", "Xiao Huang"]
AUTHORS = ["魔搭", "ModelScope"]


@dataclass
class FakeHub:
    """A hub that keeps data sets as directories; any other id is unreachable."""

    shelves: Mapping[str, Path] = field(default_factory=dict)

    def check(self, dataset_id: str) -> None:
        """It answers."""

    def fetch(self, dataset_id: str) -> Path:
        if dataset_id not in self.shelves:
            raise FineryError(Reason.DATASET_UNREACHABLE, f"{dataset_id} is unreachable")
        return self.shelves[dataset_id]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_rows(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write_rows


def numbered(count: int, prefix: str = "q") -> list[dict[str, Any]]:
    return [{"query": f"{prefix}{number}", "response": f"a{number}"} for number in range(count)]


def questions(loaded: LoadedDatasets) -> list[str]:
    return [row.messages[0]["content"] for row in loaded.train]


def refusal(*datasets: str, **options: Any) -> FineryError:
    with pytest.raises(FineryError) as caught:
        load(datasets, **options)
    return caught.value


def test_the_guides_mix_from_shipped_data() -> None:
    loaded = load(["general-zh#50", "general-en#50", "self-cognition#500"], names=NAMES, authors=AUTHORS)
    assert [(report.dataset, report.train, report.val) for report in loaded.report] == [
        ("general-zh#50", 49, 1),
        ("general-en#50", 49, 1),
        ("self-cognition#500", 500 - loaded.report[2].val, loaded.report[2].val),
    ]
    assert len(loaded.train) + len(loaded.val) == 600
    assert loaded.report[2].repeated == -(
        -loaded.report[2].train // (loaded.report[2].available - loaded.report[2].val)
    )
    text = " ".join(message["content"] for row in loaded.train for message in row.messages)
    assert "{{" not in text
    assert all(word in text for word in (*NAMES, *AUTHORS))


def test_shipped_chinese_rows_speak_of_the_chinese_name() -> None:
    loaded = load(["self-cognition"], test_ratio=0, names=NAMES, authors=AUTHORS)
    single = [row for row in loaded.train if row.tag == "identity"]
    for row in single:
        answer = row.messages[-1]["content"]
        wrong = (NAMES[1], AUTHORS[1]) if row.lang == "zh" else (NAMES[0], AUTHORS[0])
        assert not any(word in answer for word in wrong), row.origin


def test_same_seed_same_rows_in_the_same_order() -> None:
    first, second, other = (load(["general-en#40", "general-zh"], seed=seed) for seed in (7, 7, 8))
    assert first == second
    assert questions(first) != questions(other)


def test_sets_are_mixed(write: Any) -> None:
    loaded = load([str(write("a.jsonl", numbered(50, "a"))), str(write("b.jsonl", numbered(50, "b")))], test_ratio=0)
    order = "".join(question[0] for question in questions(loaded))
    assert Counter(order) == {"a": 50, "b": 50}
    assert "a" in order[50:]
    assert "b" in order[:50]


@pytest.mark.parametrize("name", ["sub/a.jsonl", "./sub", "../sub", "~/a.jsonl", "sub/a.jsonl:train#1"])
def test_a_relative_path_is_refused(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whoever reads data for others must not read what lies in its own directory, or in its own home."""
    write("sub/a.jsonl", numbered(3))
    write("a.jsonl", numbered(3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    error = refusal(name)
    assert error.reason is Reason.INVALID_ARGUMENT
    assert "not an absolute path" in error.message


def test_what_looks_like_a_hub_id_is_never_a_directory(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("owner/name/a.jsonl", numbered(3))
    monkeypatch.chdir(tmp_path)
    assert refusal("owner/name", hubs={"HF": FakeHub()}).reason is Reason.DATASET_UNREACHABLE


def test_a_colon_in_a_files_name(write: Any, tmp_path: Path) -> None:
    write("a:b.jsonl", numbered(3))
    assert len(load([f"{tmp_path}/a:b.jsonl#2"], test_ratio=0).train) == 2


def test_system_prompt_goes_where_there_is_none(write: Any) -> None:
    path = write("a.jsonl", [{"query": "q", "response": "a"}, {"query": "q", "response": "a", "system": "own"}])
    loaded = load([str(path)], test_ratio=0, system="given")
    assert sorted(row.messages[0]["content"] for row in loaded.train) == ["given", "own"]


def test_a_messages_language_beats_its_rows(write: Any) -> None:
    messages = [
        {"role": "user", "content": "你是谁？"},
        {"role": "assistant", "content": "{{NAME}}"},
        {"role": "user", "content": "Who?", "lang": "en"},
        {"role": "assistant", "content": "{{NAME}}", "lang": "en"},
    ]
    path = write("a.jsonl", [{"messages": messages, "lang": "zh", "tag": "mixed"}])
    (row,) = load([str(path)], names=NAMES).train
    assert [message["content"] for message in row.messages] == ["你是谁？", "小黄", "Who?", "Xiao Huang"]
    assert (row.lang, row.tag, row.origin) == ("zh", "mixed", "a.jsonl, line 1")
    assert set(row.messages[3]) == {"role", "content"}


def test_without_lang_the_text_decides(write: Any) -> None:
    path = write(
        "a.jsonl", [{"query": "名字？", "response": "我叫{{NAME}}"}, {"query": "Name?", "response": "{{NAME}}"}]
    )
    answers = {row.messages[1]["content"] for row in load([str(path)], names=NAMES, test_ratio=0).train}
    assert answers == {"我叫小黄", "Xiao Huang"}


def test_self_cognition_without_names() -> None:
    error = refusal("self-cognition")
    assert error.reason is Reason.PLACEHOLDER_SURVIVED
    assert "self_cognition.jsonl, line " in error.message
    assert "--model_name" in error.message


def test_self_cognition_without_author() -> None:
    error = refusal("self-cognition", names=NAMES)
    assert error.reason is Reason.PLACEHOLDER_SURVIVED
    assert "{{AUTHOR}}" in error.message
    assert "--model_author" in error.message


def test_a_placeholder_nobody_fills(write: Any) -> None:
    path = write("a.jsonl", [*numbered(2), {"query": "q", "response": "of {{COMPANY}}"}])
    error = refusal(str(path), names=NAMES, authors=AUTHORS)
    assert error.reason is Reason.PLACEHOLDER_SURVIVED
    assert "a.jsonl, line 3: the placeholder {{COMPANY}}" in error.message


def test_a_name_that_is_itself_a_placeholder() -> None:
    assert refusal("self-cognition", names=["{{NAME}}"], authors=AUTHORS).reason is Reason.PLACEHOLDER_SURVIVED


def test_bad_row_of_a_local_file(write: Any) -> None:
    path = write("a.jsonl", [*numbered(2), {"prompt": "q", "completion": "a"}])
    error = refusal(str(path))
    assert error.reason is Reason.DATASET_ROW_INVALID
    assert error.message.startswith(f"{path}, line 3: its format is not recognised (found: prompt, completion; known:")


def test_of_a_row_with_many_columns_the_first_are_named(write: Any) -> None:
    error = refusal(str(write("a.jsonl", [{f"column{number}": "" for number in range(400)}])))
    assert "(found: column0, column1, " in error.message
    assert ", column9 and 390 more; known:" in error.message
    assert "column10" not in error.message


def test_a_list_in_a_text_that_is_nested_too_deeply(write: Any) -> None:
    path = write("a.jsonl", [*numbered(1), {"messages": "[" * 100_000 + "]" * 100_000}])
    assert refusal(str(path)).message.startswith(f"{path}, line 2: it is nested too deeply; ")


def test_bad_rows_of_a_hub_are_skipped_and_counted(write: Any) -> None:
    rows = [*numbered(4), {"query": "q", "response": ""}]
    hub = FakeHub({"owner/name": write("hub/train.jsonl", rows).parent})
    loaded = load(["owner/name"], test_ratio=0, hubs={"HF": hub})
    assert (loaded.report[0].available, loaded.report[0].skipped) == (4, 1)


def test_a_hubs_data_set_without_a_good_row(write: Any) -> None:
    hub = FakeHub({"owner/name": write("hub/train.jsonl", [{"txt": "x"}]).parent})
    error = refusal("owner/name", hubs={"HF": hub})
    assert error.reason is Reason.DATASET_ROW_INVALID
    assert "found: txt" in error.message


@pytest.mark.parametrize(
    ("dataset", "dataset_id"),
    [
        ("alpaca-zh#5", "llm-wizard/alpaca-gpt4-data-zh"),
        ("alpaca-en#5", "vicgalle/alpaca-gpt4"),
        ("MS::alpaca-zh#5", "AI-ModelScope/alpaca-gpt4-data-zh"),
        ("MS::alpaca-en#5", "AI-ModelScope/alpaca-gpt4-data-en"),
        ("MS::owner/name", "owner/name"),
    ],
)
def test_hub_ids(write: Any, dataset: str, dataset_id: str) -> None:
    shelf = FakeHub({dataset_id: write("hub/train.jsonl", numbered(9)).parent})
    hubs = {"HF": FakeHub(), "MS": shelf} if dataset.startswith("MS::") else {"HF": shelf, "MS": FakeHub()}
    loaded = load([dataset], test_ratio=0, hubs=hubs)  # type: ignore[arg-type]
    assert len(loaded.train) in (5, 9)


@pytest.mark.parametrize("place", ["directory", "hub"])
def test_a_subset_is_read_and_nothing_beside_it(write: Any, tmp_path: Path, place: str) -> None:
    for name in ("zh/train-00000.jsonl", "zh/test.jsonl", "en/train.jsonl", "en/other.jsonl"):
        write(f"set/{name}", numbered(20, f"{name} "))
    named = "owner/name" if place == "hub" else str(tmp_path / "set")
    hubs: Any = {"HF": FakeHub({"owner/name": tmp_path / "set"})}

    def files(subset: str, count: str = "") -> Counter[str]:
        loaded = load([f"{named}:{subset}{count}"], test_ratio=0, hubs=hubs)
        return Counter(question.split()[0] for question in questions(loaded))

    assert files("zh") == {"zh/train-00000.jsonl": 20, "zh/test.jsonl": 20}
    assert files("test/other") == {"zh/test.jsonl": 20, "en/other.jsonl": 20}
    drawn = files("train", "#30")
    assert drawn.keys() == {"zh/train-00000.jsonl", "en/train.jsonl"}
    assert drawn.total() == 30
    with pytest.raises(FineryError, match="no data files of subset 'fr'"):
        files("fr")


def test_unreachable_hub() -> None:
    assert refusal("alpaca-zh#500", hubs={"HF": FakeHub()}).reason is Reason.DATASET_UNREACHABLE


@pytest.mark.parametrize(("name", "near"), [("self-cogniton", "self-cognition"), ("general_eng#5", "general-en")])
def test_unknown_names_get_near_matches(name: str, near: str) -> None:
    error = refusal(name)
    assert error.reason is Reason.DATASET_NOT_FOUND
    assert f"Did you mean {near}" in error.message


@pytest.mark.parametrize("name", ["/nowhere/rows.csv", "/nowhere/rows"])
def test_missing_files(name: str) -> None:
    error = refusal(name)
    assert error.reason is Reason.FILE_MISSING
    assert name in error.message


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    error = refusal(str(tmp_path / "a.jsonl"))
    assert error.reason is Reason.DATASET_EMPTY
    assert "a.jsonl" in error.message


def test_no_data_set_at_all() -> None:
    assert refusal().reason is Reason.DATASET_EMPTY


def test_the_same_set_twice() -> None:
    error = refusal("general-en#5", "general-en#6")
    assert error.reason is Reason.INVALID_ARGUMENT
    assert "general-en is given twice" in error.message


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2.0])
def test_impossible_ratio(ratio: float) -> None:
    assert refusal("general-en", test_ratio=ratio).metadata == {"field": "dataset_test_ratio"}


def test_validation_data_of_their_own(write: Any) -> None:
    train, val = write("a.jsonl", numbered(30, "a")), write("b.jsonl", numbered(10, "b"))
    loaded = load([str(train)], val_datasets=[f"{val}#4", "general-en#500"], test_ratio=0.5)
    assert (len(loaded.train), len(loaded.val)) == (30, 4 + loaded.report[2].available)
    assert {row.messages[0]["content"][0] for row in loaded.train} == {"a"}
    assert [(report.train, report.val) for report in loaded.report[:2]] == [(30, 0), (0, 4)]
    assert len({row.origin for row in loaded.val}) == len(loaded.val)


def test_what_was_drawn_is_told_in_a_sentence(write: Any) -> None:
    path = write("a.jsonl", numbered(10))
    told = [str(load([f"{path}{count}"], test_ratio=ratio).report[0]) for count, ratio in (("", 0.1), ("#25", 0))]
    assert told == [
        f"{path}: 10 rows, 9 to train on, 1 to evaluate on",
        f"{path}#25: 10 rows, 25 to train on, 0 to evaluate on; "
        "fewer rows than asked for: all of them twice, and 5 of them once more",
    ]


def test_a_hubs_skipped_rows_are_told_with_the_first_ones_problem(write: Any) -> None:
    rows = [*numbered(4), {"query": "q", "response": ""}, {"q": "a"}]
    hub = FakeHub({"owner/name": write("hub/train.jsonl", rows).parent})
    (report,) = load(["owner/name"], test_ratio=0, hubs={"HF": hub}).report
    assert report.skipped == 2
    assert "2 rows skipped, the first: " in str(report)
    assert "train.jsonl, line 5: the assistant's text is empty" in str(report)


def test_a_selection_reads_its_rows_again_and_names_each_once(write: Any) -> None:
    a, b = write("a.jsonl", numbered(40, "a")), write("b.jsonl", numbered(5, "b"))
    arguments = [f"{a}#10", f"{b}#12"]
    selection, loaded = select(arguments, test_ratio=0.2, seed=3), load(arguments, test_ratio=0.2, seed=3)
    rows = list(selection.rows())
    assert rows == list(selection.rows())
    assert len(rows) == len(selection) == 15
    assert len({row.origin + row.messages[0]["content"] for row in rows}) == 15
    assert tuple(rows[number] for number in selection.train) == loaded.train
    assert tuple(rows[number] for number in selection.val) == loaded.val
    assert [(part.dataset, len(part)) for part in selection.parts] == [(arguments[0], 10), (arguments[1], 5)]


def test_memory_does_not_grow_with_the_rows(write: Any) -> None:
    """2 MB of rows are drawn from without being held."""
    path = write("a.jsonl", [{"query": f"{n}" * 100, "response": "x" * 4000} for n in range(500)])
    tracemalloc.start()
    selection = select([f"{path}#400"], test_ratio=0.1)
    assert sum(len(row.messages) for row in selection.rows()) == 800
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 2e6
    assert peak < 5e5


def test_a_selections_digest_is_that_of_its_content(write: Any, tmp_path: Path) -> None:
    path, copy = write("a.jsonl", numbered(40)), write("b.jsonl", numbered(40))

    def digest(name: Path, **options: Any) -> str:
        return select([f"{name}#10"], **{"test_ratio": 0, "names": NAMES, **options}).digest()

    first = digest(path)
    assert digest(path) == first
    assert digest(path, seed=1) != first
    assert digest(path, names=["other"]) != first
    assert digest(path, system="other") != first
    write("a.jsonl", numbered(41))
    assert digest(path) != first
    assert select([str(copy)], test_ratio=0).digest() == select([str(copy)], test_ratio=0.5).digest()


def test_files_that_change_while_they_are_used(write: Any) -> None:
    path = write("a.jsonl", numbered(40))
    selection = select([str(path)])
    path.write_text(path.read_text().replace("q1", "Q1"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(FineryError, match="changed while it was read") as caught:
        list(selection.rows())
    assert caught.value.reason is Reason.DATASET_ROW_INVALID


def test_self_cognition_is_mixed_from_its_drawn_rows_and_nothing_else_is() -> None:
    seen: list[int] = []

    def mix(rows: Sequence[Conversation], rng: random.Random) -> list[Conversation]:
        seen.append(len(rows))
        assert all(row.messages[0]["content"] != "given" for row in rows)
        return [replace(row, tag=f"mixed {rng.random()}").with_system("ours") for row in rows]

    options: Any = {"names": NAMES, "authors": AUTHORS, "mix": mix, "system": "given", "test_ratio": 0.1}
    loaded = load(["self-cognition#500", "general-en"], **options)
    assert seen == [loaded.report[0].train, loaded.report[0].val] == [471, 29]
    mixed = [row for row in loaded.train if row.tag.startswith("mixed")]
    assert len({row.tag for row in mixed}) == 471
    assert Counter(row.messages[0]["content"] for row in mixed)["ours"] > 400
    assert {row.messages[0]["content"] for row in loaded.train if row not in mixed} == {"given"}
    assert loaded == load(["self-cognition#500", "general-en"], **options)


def test_plain_text_and_tools_keep_what_they_are(write: Any, tmp_path: Path) -> None:
    call = {"role": "tool_call", "content": '{"name": "f", "arguments": {}}'}
    turns = [("user", "q"), ("tool", "5"), ("assistant", "a")]
    messages = [{"role": role, "content": content} for role, content in turns]
    messages.insert(1, call)
    path = write("a.jsonl", [{"text": "我叫{{NAME}}。"}, {"messages": messages, "tools": [{"name": "f"}]}])
    loaded = load([str(path)], names=NAMES, test_ratio=0, system="S")
    text, tools = sorted(loaded.train, key=lambda row: len(row.messages))
    assert (text.messages, text.text, text.lang) == ((), "我叫小黄。", "zh")
    assert [message["role"] for message in tools.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert tools.tools == ({"type": "function", "function": {"name": "f"}},)
