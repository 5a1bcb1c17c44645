"""The quantization gate: what was written is what was meant, and it is still the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finery_quantizer.backends.base import QuantizationBackend, Tell, WrittenModel
from finery_quantizer.backends.checkpoint.device import checking_dtype, pick_device
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_quantizer.backends.checks.generation import answer
from finery_quantizer.backends.checks.identity import identity_figures, identity_questions
from finery_quantizer.backends.checks.perplexity import perplexity, streamed_perplexities
from finery_quantizer.backends.checks.tokenizers import check_same_files
from finery_quantizer.request import TrainingRecipe
from finery_shared.datasets import ANSWER_TOKENS
from finery_shared.errors import FineryError, Reason
from finery_shared.templates.render import Rendered
from finery_shared.templates.tokenizer import Messages

SMALL_TALK = ("Hi!", "What is the capital of France?", "你好")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the perplexity may be, as factors of the source model's and of plain round-to-nearest's."""

    over_source: float
    over_rounding: float


@dataclass(frozen=True, slots=True)
class QuantizationCheck:
    """Checks a written model against its source on rows that nothing was tuned on."""

    backend: QuantizationBackend
    source: Path
    written: WrittenModel
    bounds: Bounds
    tell: Tell = lambda *_: None
    """Hears of layers done, of the longest part."""

    def run(
        self,
        tokenizer: PreTrainedTokenizerFast,
        rows: Sequence[Rendered],
        recipe: TrainingRecipe,
        old_identity: Sequence[str],
    ) -> dict[str, float]:
        """Figures: perplexity before, after and by plain rounding, share of answers that end, identity score.

        Raises GATE_FAILED saying which check failed and by how much.
        """
        check_same_files(self.source, self.written.directory)
        dtype = checking_dtype(self.source)
        source = StreamedModel(self.source, pick_device(), dtype)
        before, rounded = streamed_perplexities(source, rows, [self._round], self.tell)
        model = self.backend.load(self.written, dtype)
        figures = {
            "perplexity_merged": before,
            "perplexity_round_to_nearest": rounded,
            "perplexity_quantized": perplexity(model, rows),
        }
        self._judge(figures)
        return figures | self._talk(model, tokenizer, recipe, old_identity)

    def _talk(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        recipe: TrainingRecipe,
        old_identity: Sequence[str],
    ) -> dict[str, float]:
        """Ask small talk, whose answers must end by themselves, and who the model is."""
        questions = identity_questions(recipe.model_names, recipe.model_authors)
        small_talk: list[Messages] = [[{"role": "user", "content": text}] for text in SMALL_TALK]
        answers = answer(model, tokenizer, [*small_talk, *(q.messages for q in questions)], ANSWER_TOKENS)
        ended = sum(a.stopped for a in answers[: len(SMALL_TALK)]) / len(SMALL_TALK)
        if not ended:
            problem = f"none of {len(SMALL_TALK)} answers to small talk ended by itself within {ANSWER_TOKENS} tokens"
            raise _failed("smoke", problem)
        scored = identity_figures(questions, [a.text for a in answers[len(SMALL_TALK) :]], old_identity)
        return {"smoke_stopped": ended, **scored}

    def _round(self, prefix: str, layer: nn.Module) -> None:
        """Give the quantized weights of a layer what plain rounding leaves of them."""
        for name, parameter in layer.named_parameters():
            if f"{prefix}.{name}" in self.written.quantized:
                parameter.copy_(self.backend.rounded(parameter))

    def _judge(self, figures: dict[str, float]) -> None:
        after, before = figures["perplexity_quantized"], figures["perplexity_merged"]
        rounded = figures["perplexity_round_to_nearest"]
        if not after <= before * self.bounds.over_source:
            raise _failed(
                "perplexity",
                f"perplexity on held-out rows rose from {before:.2f} to {after:.2f}, more than by the factor "
                f"{self.bounds.over_source} (FINERY_QUANTIZER_MAX_PERPLEXITY_RATIO)",
            )
        if not after <= rounded * self.bounds.over_rounding:
            raise _failed(
                "perplexity",
                f"perplexity on held-out rows is {after:.2f}, worse than the {rounded:.2f} of plain rounding",
            )


def _failed(gate: str, problem: str) -> FineryError:
    message = f"The quantized model is not good enough: {problem}. Calibrate with more or other rows (--dataset)."
    return FineryError(Reason.GATE_FAILED, message, gate=gate)
