"""Real downloads by the hubs' own libraries, from hubs on a loopback port. Each runs where its library is installed."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finery_shared.datasets import load
from finery_shared.datasets.hubs import DatasetHub, HuggingFaceDatasets, ModelScopeDatasets, hubs_from
from finery_shared.errors import FineryError, Reason
from tests.fakes import hf_hub, ms_hub

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # huggingface_hub's own

ROWS = b'[{"instruction": "1+1?", "input": "", "output": "2"}, {"instruction": "x", "input": "", "output": ""}]'
NOWHERE = "http://127.0.0.1:9"


class Kind(NamedTuple):
    """A hub, its library, and what it calls Alpaca in Chinese."""

    prefix: str
    library: str
    alpaca: str
    serve: Callable[[Any], AbstractContextManager[str]]
    make: Callable[[str, Path], DatasetHub]


KINDS = (
    Kind("HF", "huggingface_hub", "llm-wizard/alpaca-gpt4-data-zh", hf_hub.serve_hub, HuggingFaceDatasets),
    Kind("MS", "modelscope_hub", "AI-ModelScope/alpaca-gpt4-data-zh", ms_hub.serve_hub, ModelScopeDatasets),
)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.prefix)
def kind(request: pytest.FixtureRequest) -> Kind:
    pytest.importorskip(request.param.library, reason="runs in the services' environments")
    return request.param


def test_alpaca_comes_from_its_hub_and_then_from_the_cache(kind: Kind, tmp_path: Path) -> None:
    with kind.serve({f"datasets/{kind.alpaca}": {"data.json": ROWS, "README.md": b"#", "run.py": b"#"}}) as endpoint:
        hub = kind.make(endpoint, tmp_path)
        hub.check(kind.alpaca)
        first = load([f"{kind.prefix}::alpaca-zh#3"], test_ratio=0, hubs={kind.prefix: hub})
    assert [row.messages[1]["content"] for row in first.train] == ["2", "2", "2"]
    assert first.report[0].skipped == 1
    assert not list(tmp_path.rglob("run.py"))
    gone = kind.make(NOWHERE, tmp_path)
    gone.check(kind.alpaca)
    assert load([f"{kind.prefix}::alpaca-zh#3"], test_ratio=0, hubs={kind.prefix: gone}).train == first.train


def test_an_id_that_the_hub_does_not_have(kind: Kind, tmp_path: Path) -> None:
    with kind.serve({}) as endpoint, pytest.raises(FineryError, match="check the id") as caught:
        kind.make(endpoint, tmp_path).fetch("owner/nothing")
    assert caught.value.reason is Reason.DATASET_UNREACHABLE


@pytest.mark.parametrize("ask", ["check", "fetch"])
def test_a_hub_out_of_reach(kind: Kind, tmp_path: Path, ask: str) -> None:
    with pytest.raises(FineryError, match="can't be reached from here") as caught:
        getattr(kind.make(NOWHERE, tmp_path), ask)(kind.alpaca)
    assert caught.value.reason is Reason.DATASET_UNREACHABLE
    assert "--dataset path/to/rows.jsonl" in caught.value.message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.prefix)
def test_a_hub_without_its_library_says_how_to_install_it(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind.library, None)
    with pytest.raises(FineryError) as caught:
        kind.make(NOWHERE, tmp_path).check(kind.alpaca)
    assert caught.value.reason is Reason.DATASET_UNREACHABLE
    package = kind.library.replace("_", "-")
    assert f"uv pip install --python {sys.executable} {package}" in caught.value.message


@pytest.mark.parametrize(
    ("environment", "order"),
    [
        ({}, ["HF", "MS"]),
        ({"USE_HF": "1"}, ["HF", "MS"]),
        ({"USE_HF": "0"}, ["MS", "HF"]),
        ({"USE_HF": "False"}, ["MS", "HF"]),
    ],
)
def test_an_id_without_prefix_is_looked_for_on_the_hub_that_use_hf_chooses(
    environment: dict[str, str], order: list[str]
) -> None:
    assert list(hubs_from(environment)) == order


def test_both_hubs_are_asked_at_the_addresses_of_the_environment() -> None:
    hubs = hubs_from({"HF_ENDPOINT": "https://mirror.example/", "MODELSCOPE_DOMAIN": "ms.example"})
    assert hubs["HF"] == HuggingFaceDatasets("https://mirror.example")
    assert hubs["MS"] == ModelScopeDatasets("https://ms.example")
