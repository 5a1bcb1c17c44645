"""The test model itself: its tokenizer is Qwen's, its directory is a whole model, and its answer is known."""

from pathlib import Path
from typing import Any

import pytest

from finery_shared.datasets import load
from finery_shared.models import from_path
from finery_shared.templates import ChatTokenizer, render_prompt, stop_token_ids
from tests.fakes.qwen_tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, ranks_file, read_ranks
from tests.fakes.tiny_qwen import ANSWER, write_tiny_qwen


@pytest.fixture(scope="module")
def directory(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen(tmp_path_factory.mktemp("tiny") / "tiny-qwen")


def test_tokenizer_agrees_with_tiktoken_on_the_same_ranks(qwen: ChatTokenizer) -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="runs where tiktoken is installed: with vLLM")
    reference = tiktoken.Encoding(
        "qwen", pat_str=SPLIT_PATTERN, mergeable_ranks=read_ranks(ranks_file()), special_tokens=SPECIAL_TOKENS
    )
    rows = load(["general-zh", "general-en"], test_ratio=0).train
    texts = [message["content"] for row in rows for message in row.messages]
    for text in [*texts, "  x\n\n\t y  ", "It's 2024年, naïve café 🎉", "<|im_start|>a<|im_end|>"]:
        assert qwen.encode(text, add_special_tokens=False) == reference.encode(text, allowed_special="all"), text


def test_its_directory_alone_is_enough(directory: Path) -> None:
    spec = from_path(directory)
    assert (spec.model_type, spec.family, spec.template) == ("tiny-qwen", "qwen2", "qwen")
    assert (spec.group_size, spec.max_model_len, spec.quantized) == (128, 4096, False)
    assert spec.default_system == "You are a helpful assistant"
    assert spec.stop_tokens == ("<|im_end|>", "<|endoftext|>")


def test_it_answers_and_stops(transformers: Any, directory: Path) -> None:
    torch = pytest.importorskip("torch", reason="runs in the services' environments")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    greedy = transformers.GenerationConfig(do_sample=False, max_new_tokens=8, eos_token_id=151645, pad_token_id=151643)
    for question in ("Hello?", "你是谁？"):
        prompt = render_prompt(tokenizer, [{"role": "user", "content": question}])
        ids = torch.tensor([prompt.token_ids])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
        answer = output[0, len(prompt.token_ids) :].tolist()
        assert tokenizer.decode(answer, skip_special_tokens=True) == ANSWER
        assert answer[-1] == stop_token_ids(tokenizer)[0]
