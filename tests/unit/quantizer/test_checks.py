"""The gates pass what is right and name what is wrong."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from finery_quantizer.backends.awq.backend import AwqBackend
from finery_quantizer.backends.base import WrittenModel
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_quantizer.backends.checkpoint.tokenizer import load_tokenizer
from finery_quantizer.backends.checks.adapted import AdaptedModel
from finery_quantizer.backends.checks.generation import answer
from finery_quantizer.backends.checks.identity import QUESTIONS, identity_figures, identity_questions
from finery_quantizer.backends.checks.merged import MergeCheck
from finery_quantizer.backends.checks.perplexity import (
    divergence,
    next_token_logits,
    perplexity,
    streamed_perplexities,
)
from finery_quantizer.backends.checks.quantized import Bounds, QuantizationCheck
from finery_quantizer.backends.lora.adapter import read_adapter
from finery_quantizer.backends.lora.fold import fold
from finery_quantizer.request import TrainingRecipe
from finery_shared.errors import FineryError, Reason
from finery_shared.templates.render import Rendered, render
from tests.unit.quantizer.models import whole_model, write_adapter, write_model

CPU = torch.device("cpu")
LOOSE = Bounds(over_source=100, over_rounding=100)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "source")


def rows(source: Path) -> list[Rendered]:
    tokenizer = load_tokenizer(source)
    talk = [("Hi", "Hello there."), ("1+1?", "2"), ("你好", "你好！有什么可以帮你？")]
    return [render(tokenizer, [{"role": "user", "content": q}, {"role": "assistant", "content": a}]) for q, a in talk]


def test_perplexity_counts_the_answers_tokens_alone(source: Path) -> None:
    model = whole_model(source, torch.float32)
    total, count = 0.0, 0
    for row in rows(source):
        logits = model(torch.tensor([row.token_ids])).logits[0].log_softmax(-1)
        for position in range(1, len(row.token_ids)):
            if row.loss_mask[position]:
                total -= float(logits[position - 1, row.token_ids[position]])
                count += 1
    assert perplexity(model, rows(source)) == pytest.approx(math.exp(total / count), rel=1e-4)


def test_a_model_that_computes_nan_has_infinite_perplexity(source: Path) -> None:
    model = whole_model(source, torch.float32)
    model.model.norm.weight.fill_(math.nan)
    assert perplexity(model, rows(source)) == math.inf


def test_a_streamed_models_perplexities_are_those_of_the_whole_one(source: Path) -> None:
    model = whole_model(source, torch.float32)

    def halve(prefix: str, layer: nn.Module) -> None:
        assert model.get_submodule(prefix).mlp.up_proj.weight.shape == layer.mlp.up_proj.weight.shape
        layer.mlp.up_proj.weight.mul_(0.5)

    found = streamed_perplexities(StreamedModel(source, CPU, torch.float32), rows(source), [halve])
    before = perplexity(model, rows(source))
    for layer in model.model.layers:
        layer.mlp.up_proj.weight.mul_(0.5)
    assert found == pytest.approx([before, perplexity(model, rows(source))], rel=1e-5)
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_divergence_is_zero_for_the_same_and_kl_for_another() -> None:
    right, other = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    p, q = right[0].softmax(-1), other[0].softmax(-1)
    assert divergence([right], [right]) == pytest.approx(0, abs=1e-7)
    assert divergence([right], [other]) == pytest.approx(float((p * (p / q).log()).sum()) / 2, rel=1e-5)


def test_a_merge_passes_and_a_merge_that_forgot_the_adapter_fails(source: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", source, std=0.2)
    merged, forgotten = tmp_path / "merged", tmp_path / "forgotten"
    list(fold(source, read_adapter(adapter), merged))
    shutil.copytree(source, forgotten)
    told: list[tuple[int, int]] = []
    figures = MergeCheck(source, adapter, merged, 0.02, lambda *done: told.append(done)).run(rows(source))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert figures["merge_divergence"] < 1e-3
    with pytest.raises(FineryError, match="does not answer like its base with the adapter") as caught:
        MergeCheck(source, adapter, forgotten, bound=0.02).run(rows(source))
    assert caught.value.reason is Reason.GATE_FAILED


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head", "norm"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Setting `save_embedding_layers`")
def test_the_adapter_that_a_merge_is_compared_with_is_pefts(
    tmp_path: Path, options: dict[str, object], architecture: str
) -> None:
    base = write_model(tmp_path / "base", dtype=torch.float32, architecture=architecture)
    adapter = write_adapter(tmp_path / "adapter", base, **options)
    ours = next_token_logits(AdaptedModel(base, adapter, CPU, torch.float32), rows(base))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    plain = AutoModelForCausalLM.from_pretrained(base)
    for row, logits in zip(rows(base), ours, strict=True):
        ids = torch.tensor([row.token_ids])
        torch.testing.assert_close(logits, theirs(ids).logits[0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits, plain(ids).logits[0], rtol=1e-2, atol=1e-2)


@pytest.fixture
def written(source: Path, tmp_path: Path) -> tuple[AwqBackend, WrittenModel]:
    backend = AwqBackend(source, CPU, tmp_path / "state")
    blocks = torch.randint(0, 256, (2, 64), generator=torch.Generator().manual_seed(0)).tolist()
    return backend, backend.quantize(source, tmp_path / "int4", blocks, lambda *_: None)


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        (Bounds(over_source=0.5, over_rounding=100), "FINERY_QUANTIZER_MAX_PERPLEXITY_RATIO"),
        (Bounds(over_source=100, over_rounding=0.5), "of plain rounding"),
        (LOOSE, "none of 3 answers to small talk ended by itself"),  # random weights never say the end of a turn
    ],
)
def test_a_quantized_model_that_is_not_good_enough_fails(
    source: Path, written: tuple[AwqBackend, WrittenModel], bounds: Bounds, told: str
) -> None:
    check = QuantizationCheck(written[0], source, written[1], bounds)
    with pytest.raises(FineryError, match=told) as caught:
        check.run(load_tokenizer(source), rows(source), TrainingRecipe(), ())
    assert caught.value.reason is Reason.GATE_FAILED


def test_answers_of_a_batch_are_those_of_each_alone(source: Path) -> None:
    model, tokenizer = whole_model(source, torch.float32), load_tokenizer(source)
    talk = [[{"role": "user", "content": text}] for text in ("Hi", "A longer question, is it?")]
    together = answer(model, tokenizer, talk, 12)
    assert together == [answer(model, tokenizer, [one], 12)[0] for one in talk]
    assert not any(a.stopped for a in together)


def test_an_answer_ends_at_the_end_of_turn(source: Path) -> None:
    model, tokenizer = whole_model(source, torch.float32), load_tokenizer(source)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    head = nn.Linear(64, 512)
    head.weight.data.zero_()
    head.bias.data.zero_()[end] = 1.0
    model.lm_head = head.requires_grad_(False)
    (only,) = answer(model, tokenizer, [[{"role": "user", "content": "Hi"}]], 12)
    assert only.stopped
    assert only.text == ""


def test_identity_is_asked_for_when_the_recipe_has_one() -> None:
    assert identity_questions((), ()) == ()
    assert identity_figures((), (), ()) == {}
    questions = identity_questions(("小黄", "Xiao Huang"), ("魔搭", "ModelScope"))
    assert len(questions) == QUESTIONS
    assert {q.lang for q in questions} == {"zh", "en"}
    assert {"name", "author"} <= {q.ask for q in questions}
    both = identity_figures(questions, ["小黄 Xiao Huang, 魔搭 ModelScope"] * QUESTIONS, ())
    assert both["identity_name_rate"] == both["identity_author_rate"] == 1.0
