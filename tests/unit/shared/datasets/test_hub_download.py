"""A real download by huggingface_hub, from a hub on a loopback port. Runs where that package is installed."""

from pathlib import Path

import pytest

from finery_shared.datasets import load
from finery_shared.datasets.hubs import HuggingFaceDatasets
from finery_shared.errors import FineryError, Reason
from tests.fakes.hf_hub import serve_hub

pytest.importorskip("huggingface_hub", reason="runs in the services' environments")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # huggingface_hub's own

ROWS = b'[{"instruction": "1+1?", "input": "", "output": "2"}, {"instruction": "x", "input": "", "output": ""}]'


def test_alpaca_comes_from_its_hub_and_then_from_the_cache(tmp_path: Path) -> None:
    with serve_hub({"datasets/llm-wizard/alpaca-gpt4-data-zh": {"data.json": ROWS, "README.md": b"#"}}) as endpoint:
        hub = HuggingFaceDatasets(endpoint, cache=tmp_path)
        first = load(["alpaca-zh#3"], test_ratio=0, hubs={"HF": hub})
    assert [row.messages[1]["content"] for row in first.train] == ["2", "2", "2"]
    assert first.report[0].skipped == 1
    gone = HuggingFaceDatasets("http://127.0.0.1:9", cache=tmp_path)
    assert load(["alpaca-zh#3"], test_ratio=0, hubs={"HF": gone}).train == first.train


def test_an_id_that_the_hub_does_not_have(tmp_path: Path) -> None:
    with serve_hub({}) as endpoint, pytest.raises(FineryError, match="check the id") as caught:
        load(["owner/nothing"], hubs={"HF": HuggingFaceDatasets(endpoint, cache=tmp_path)})
    assert caught.value.reason is Reason.DATASET_UNREACHABLE


def test_a_hub_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(FineryError, match="can't be reached from here") as caught:
        load(["alpaca-en#3"], hubs={"HF": HuggingFaceDatasets("http://127.0.0.1:9", cache=tmp_path)})
    assert caught.value.reason is Reason.DATASET_UNREACHABLE
    assert "--dataset path/to/rows.jsonl" in caught.value.message
