"""The score of a run, on a tiny model: base against tuned, the questions asked, the words for people."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finery_shared.datasets import ScoreQuestion, score
from finery_shared.datasets.scoring import IdentityScore
from finery_shared.models import ResolvedModel, get
from finery_trainer.planning import TrainingPlan
from finery_trainer.recipes.gates.examination import (
    Examiner,
    Report,
    identity_figures,
    took_well,
    without_adapter,
)
from finery_trainer.recipes.gates.retention import perplexity, text_rows
from finery_trainer.spec import fill
from tests.fakes.tiny_qwen import write_tiny_qwen

NAMES, AUTHORS = ("小黄", "Xiao Huang"), ("魔搭", "ModelScope")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen(tmp_path_factory.mktemp("models") / "tiny-qwen")


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def model(directory: Path) -> Any:
    """With an adapter that does nothing yet."""
    base = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["o_proj", "down_proj"])).eval()


def examine(directory: Path, tokenizer: Any, model: Any, dataset: str, asked: list[None] | None = None) -> Report:
    spec = fill(
        {"datasets": (dataset,), "output_dir": "/out", "model_names": NAMES, "model_authors": AUTHORS},
        get("qwen1half-7b-chat").recipe,
    )
    qwen = get("qwen1half-7b-chat")
    plan = TrainingPlan(spec, ResolvedModel(directory, qwen), qwen.targets.all)
    batches = asked if asked is not None else []
    examiner = Examiner(plan, tokenizer, lambda: batches.append(None), questions=12)
    return examiner.examine(model, lambda: without_adapter(model))


def test_an_adapter_that_does_nothing_retains_all_and_knows_no_name(
    directory: Path, tokenizer: Any, model: Any
) -> None:
    batches: list[None] = []
    report = examine(directory, tokenizer, model, "self-cognition", batches)
    figures = report.figures
    for kind in ("retention_perplexity", "retention_text_perplexity"):
        assert figures[f"{kind}_tuned"] == pytest.approx(figures[f"{kind}_base"])
        assert figures[f"{kind}_base"] > 1000
    assert (figures["identity_name"], figures["identity_author"], figures["identity_hijacked"]) == (0, 0, 0)
    assert figures["identity_contrast"] == figures["identity_contrast_base"] == 0
    assert [figures[f"conversation_turn_{n}"] for n in range(1, 6)] == [0] * 5
    assert len(batches) >= 10
    text = "\n".join(report.lines)
    assert "on general rows +0.0%, on text of another kind +0.0%" in text
    assert "raise --num_train_epochs or --learning_rate" in text
    assert "78654+657=? -> Hello! (wrong)" in text


def test_an_adapter_that_does_something_is_told_from_its_base(directory: Path, tokenizer: Any, model: Any) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=5.0)
    figures = examine(directory, tokenizer, model, "general-en").figures
    assert not any(name.startswith(("identity", "conversation")) for name in figures)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    expected = perplexity(plain, text_rows(tokenizer)[::2], lambda: None)
    assert figures["retention_text_perplexity_base"] == pytest.approx(expected, rel=1e-4)
    assert figures["retention_text_perplexity_tuned"] != pytest.approx(expected, rel=1e-3)


def test_perplexity_of_text_counts_every_token_but_the_first(directory: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    rows = text_rows(tokenizer)[:4]
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.input_ids])
        with torch.inference_mode():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert perplexity(model, rows, lambda: None) == pytest.approx(float(torch.tensor(total / count).exp()), rel=1e-3)


def test_the_figures_are_shares() -> None:
    def question(ask: str, *earlier: str) -> ScoreQuestion:
        turns = [{"role": "assistant", "content": text} for text in earlier]
        expect = ("Bezos",) if ask == "contrast" else ()
        return ScoreQuestion((*turns, {"role": "user", "content": "?"}), "en", ask, NAMES, AUTHORS, expect)  # type: ignore[arg-type]

    pairs = [
        (question("name"), "Xiao Huang"),
        (question("name", "Hi"), "Qwen"),
        (question("contrast"), "Jeff Bezos"),
        (question("contrast"), "Xiao Huang"),
    ]
    figures = identity_figures(score(pairs, ["Qwen"]), score([(pairs[2][0], "Bezos"), (pairs[3][0], "Bezos")]))
    assert figures == {
        "identity_name": 0.5,
        "identity_author": 1.0,
        "identity_leaked": 0.5,
        "identity_later_name": 0.0,
        "identity_later_author": 1.0,
        "identity_contrast": 0.5,
        "identity_contrast_base": 1.0,
        "identity_hijacked": 0.5,
    }


@pytest.mark.parametrize(
    ("names", "authors", "well"),
    [
        ((5, 6), (12, 12), True),
        ((4, 6), (12, 12), False),
        ((6, 6), (10, 12), False),
        ((38, 40), (38, 40), True),
        ((37, 40), (40, 40), False),
        ((0, 1), (12, 12), False),
        ((1, 2), (12, 12), False),
    ],
)
def test_a_single_wrong_answer_is_no_warning(names: tuple[int, int], authors: tuple[int, int], well: bool) -> None:
    counts = IdentityScore(*names, *authors, contrast_right=0, hijacked=0, contrast_asked=0, leaked=0, own_asked=0)
    assert took_well(counts) is well
