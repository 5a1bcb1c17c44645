"""Real tokenizers. They need transformers, which only the services' environments have: `make test` runs these there."""

import os
from pathlib import Path
from typing import Any

import pytest

from finery_shared.templates import ChatTokenizer
from tests.fakes.qwen_tokenizer import write_qwen_tokenizer


@pytest.fixture(scope="session")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="runs in the services' environments")


@pytest.fixture(scope="session")
def qwen(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    directory = write_qwen_tokenizer(tmp_path_factory.mktemp("qwen"))
    tokenizer: ChatTokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return tokenizer


@pytest.fixture(scope="session")
def smollm2(transformers: Any) -> ChatTokenizer:
    directory = os.environ.get("FINERY_TEST_MODEL", "")
    if not (Path(directory) / "tokenizer.json").is_file():
        pytest.fail("FINERY_TEST_MODEL names no imported SmolLM2: run `make test-trainer`, or set it")
    tokenizer: ChatTokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return tokenizer


@pytest.fixture(params=["smollm2", "qwen"])
def tokenizer(request: pytest.FixtureRequest) -> ChatTokenizer:
    chosen: ChatTokenizer = request.getfixturevalue(request.param)
    return chosen
