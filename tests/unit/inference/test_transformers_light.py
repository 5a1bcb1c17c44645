"""The parts of the transformers engine that need no model."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from finery_inference.engines.protocol import EngineConfig, EngineRequest, Sampling, Structured
from finery_inference.engines.transformers.answer import Answer
from finery_inference.engines.transformers.arguments import check_model, check_request, check_tuning
from finery_inference.engines.transformers.choice import Chooser
from finery_inference.engines.transformers.text import TextStream
from finery_shared.errors import FineryError, Reason


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token a byte, and an end of turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|im_end|>"])
    return made


def answer(tokenizer: Tokenizer, tokens: list[int] | None = None, **sampling: object) -> Answer:
    prompt = tokenizer.encode("hi").ids
    request = EngineRequest("r", prompt, Sampling(**{"max_tokens": 99, **sampling}))  # type: ignore[arg-type]
    return Answer(request, 0, TextStream(tokenizer, prompt, request.sampling.stop), tokens or [])


def test_a_character_comes_whole(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, [], ())
    pieces = [stream.add(token) for token in tokenizer.encode("a好🙂").ids]
    assert pieces == ["a", "", "", "好", "", "", "", "🙂"]


def test_bytes_that_are_no_text_do_not_end_a_stream(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, [], ())
    broken = tokenizer.encode("好").ids[:1] * 6
    text = "".join(stream.add(token) for token in [*broken, *tokenizer.encode("fine, 好").ids])
    assert text.endswith("fine, 好")


def test_no_part_of_a_stop_text_is_shown(tokenizer: Tokenizer) -> None:
    subject = answer(tokenizer, stop=("END", "ENOUGH"))
    deltas = [subject.take(token) for token in tokenizer.encode("The ENEND").ids]
    assert "".join(delta.text for delta in deltas) == "The EN"
    assert [delta.finish for delta in deltas][-2:] == [None, "stop"]
    assert all("E" not in delta.text for delta in deltas[:7])


def test_what_was_held_back_comes_with_the_end(tokenizer: Tokenizer) -> None:
    subject = answer(tokenizer, stop=("END",), max_tokens=6)
    deltas = [subject.take(token) for token in tokenizer.encode("The EN").ids]
    assert "".join(delta.text for delta in deltas) == "The EN"
    assert deltas[-1].finish == "length"


def test_the_token_that_ends_an_answer_is_counted_and_not_shown(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ab").ids
    subject = answer(tokenizer, stop_token_ids=(ids[1],))
    first, last = (subject.take(token) for token in ids)
    assert (first.text, last.text, last.token_ids, last.finish) == ("a", "", [ids[1]], "stop")


def share(chooser: Chooser, logits: torch.Tensor, draws: int = 400) -> dict[int, float]:
    return {token: count / draws for token, count in Counter(chooser.choose(logits) for _ in range(draws)).items()}


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.6}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"min_p": 0.5}, {0, 1}),
        ({"min_p": 0.7}, {0}),
        ({"temperature": 0.0}, {0}),
        ({}, {0, 1, 2}),
    ],
)
def test_what_may_be_drawn(tokenizer: Tokenizer, sampling: dict[str, object], possible: set[int]) -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    assert set(share(Chooser(answer(tokenizer, seed=1, **sampling), torch.device("cpu")), logits)) == possible


def test_chance_has_the_models_odds(tokenizer: Tokenizer) -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    chooser = Chooser(answer(tokenizer, seed=5), torch.device("cpu"))
    assert share(chooser, logits, 4000)[0] == pytest.approx(0.5, abs=0.04)
    sharper = Chooser(answer(tokenizer, seed=5, temperature=0.5), torch.device("cpu"))
    assert share(sharper, logits, 4000)[0] == pytest.approx(0.25 / 0.38, abs=0.04)


@pytest.mark.parametrize(
    ("sampling", "chosen"),
    [
        ({"repetition_penalty": 3.0}, 2),  # token 0 was said, token 1 is in the prompt
        ({"frequency_penalty": 0.9}, 1),  # token 0 was said twice
        ({"presence_penalty": 0.9}, 0),
        ({"presence_penalty": 1.1}, 1),
        ({}, 0),
    ],
)
def test_penalties(tokenizer: Tokenizer, sampling: dict[str, object], chosen: int) -> None:
    request = EngineRequest("r", [1], Sampling(max_tokens=9, temperature=0.0, **sampling))  # type: ignore[arg-type]
    subject = Answer(request, 0, TextStream(tokenizer, [1], ()), [0, 0])
    logits = torch.tensor([3.0, 2.0, 1.1])
    assert Chooser(subject, torch.device("cpu")).choose(logits) == chosen
    assert logits.tolist() == pytest.approx([3.0, 2.0, 1.1])


def test_a_repetition_penalty_lowers_what_is_below_zero_too(tokenizer: Tokenizer) -> None:
    request = EngineRequest("r", [0], Sampling(max_tokens=9, temperature=0.0, repetition_penalty=2.0))
    subject = Answer(request, 0, TextStream(tokenizer, [0], ()))
    assert Chooser(subject, torch.device("cpu")).choose(torch.tensor([-1.0, -1.5])) == 1


def test_a_bias_and_least_tokens_shift_the_choice(tokenizer: Tokenizer) -> None:
    logits, here = torch.tensor([3.0, 2.0, 1.0]), torch.device("cpu")
    biased = answer(tokenizer, temperature=0.0, logit_bias={2: 2.5})
    assert Chooser(biased, here).choose(logits) == 2
    young = answer(tokenizer, [1], temperature=0.0, min_tokens=2, stop_token_ids=(0,))
    assert Chooser(young, here).choose(logits) == 1
    young.tokens.append(1)
    assert Chooser(young, here).choose(logits) == 0


def test_logprobs_are_the_models_own(tokenizer: Tokenizer) -> None:
    subject = answer(tokenizer, temperature=0.0, logit_bias={2: 100.0}, logprobs=2)
    logits = torch.tensor([0.5, 0.3, 0.2, 0.0]).log()
    position = Chooser(subject, torch.device("cpu")).position(2, logits)
    assert position is not None
    assert (position.chosen.token_id, [candidate.token_id for candidate in position.top]) == (2, [0, 1])
    assert position.chosen.logprob == pytest.approx(math.log(0.2))
    assert [candidate.logprob for candidate in position.top] == pytest.approx([math.log(0.5), math.log(0.3)])


def test_a_stop_text_before_the_least_tokens_is_text(tokenizer: Tokenizer) -> None:
    subject = answer(tokenizer, stop=("b",), min_tokens=2)
    deltas = [subject.take(token) for token in tokenizer.encode("bbab").ids]
    assert "".join(delta.text for delta in deltas) == "bba"
    assert [delta.finish for delta in deltas] == [None, None, None, "stop"]


def test_a_shape_is_refused_with_the_remedy() -> None:
    shaped = Sampling(9, structured=Structured("regex", "a+"))
    with pytest.raises(FineryError, match="--infer_backend vllm") as refusal:
        check_request(EngineRequest("r", [1], shaped))
    assert refusal.value.metadata == {"field": "structured_output.regex"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"worker_cls": "os.system"}, "worker_cls can't be set.*What can be: attn_implementation"),
        ({"attn_implementation": "owner/kernel"}, "attn_implementation must be one of: sdpa"),
        ({"max_num_seqs": 0}, "max_num_seqs must be a number"),
        ({"max_num_batched_tokens": True}, "max_num_batched_tokens must be a number"),
        ({"enable_prefix_caching": "yes"}, "enable_prefix_caching must be true or false"),
    ],
)
def test_other_engine_arguments_are_refused(arguments: dict[str, JsonValue], words: str) -> None:
    with pytest.raises(FineryError, match=words) as refusal:
        check_tuning(arguments)
    assert refusal.value.metadata == {"field": "engine_args"}


def test_tuning_is_let_through() -> None:
    check_tuning({"attn_implementation": "eager", "max_num_seqs": 4, "enable_prefix_caching": False})


@dataclass(frozen=True)
class MoreSampling(Sampling):
    """What another engine may know."""

    mood: str = ""
    words: tuple[str, ...] = field(default_factory=tuple)


@pytest.mark.parametrize("more", [{"mood": "good"}, {"words": ("sea",)}])
def test_sampling_that_this_engine_does_not_know_is_refused(more: dict[str, object]) -> None:
    plain = MoreSampling(9, 0.5, 0.9, 4, 0.1, 0.1, 0.1, 1.1, 7, ("x",), (1,), 2, True)
    check_request(EngineRequest("r", [1], plain))
    with pytest.raises(FineryError, match="--infer_backend vllm") as refusal:
        check_request(EngineRequest("r", [1], MoreSampling(9, **more)))  # type: ignore[arg-type]
    assert refusal.value.metadata == {"field": next(iter(more))}


def test_a_quantized_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(FineryError, match="--infer_backend vllm") as refusal:
        check_model(EngineConfig(tmp_path))
    assert refusal.value.reason is Reason.UNSUPPORTED


def test_several_gpus_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    check_model(EngineConfig(tmp_path))
    with pytest.raises(FineryError, match="--infer_backend vllm") as refusal:
        check_model(EngineConfig(tmp_path, tensor_parallel_size=2))
    assert refusal.value.metadata == {"field": "tensor_parallel_size"}


def test_logits_that_give_no_probabilities_are_an_error_before_the_draw(tokenizer: Tokenizer) -> None:
    chooser = Chooser(answer(tokenizer), torch.device("cpu"))
    with pytest.raises(ArithmeticError, match="not numbers"):
        chooser.choose(torch.tensor([math.nan, 1.0]))


def test_no_more_logprobs_than_tokens(tokenizer: Tokenizer) -> None:
    position = Chooser(answer(tokenizer, logprobs=20), torch.device("cpu")).position(0, torch.tensor([1.0, 0.0]))
    assert position is not None and len(position.top) == 2
