"""The merge gate: a merged model answers as its base with the adapter on top."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finery_quantizer.backends.base import Tell
from finery_quantizer.backends.checkpoint.device import checking_dtype, pick_device
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_quantizer.backends.checks.adapted import AdaptedModel
from finery_quantizer.backends.checks.perplexity import divergence, next_token_logits
from finery_quantizer.backends.checks.tokenizers import check_same_files
from finery_shared.errors import FineryError, Reason
from finery_shared.templates.render import Rendered


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """What is compared. `bound` is the largest mean divergence in nats a token; `tell` hears of layers done."""

    base: Path
    adapter: Path
    merged: Path
    bound: float
    tell: Tell = lambda *_: None

    def run(self, rows: Sequence[Rendered]) -> dict[str, float]:
        """Figures of the comparison on `rows`. Raises GATE_FAILED."""
        check_same_files(self.base, self.merged)
        device, dtype = pick_device(), checking_dtype(self.base)
        right = next_token_logits(AdaptedModel(self.base, self.adapter, device, dtype), rows, self._first_half)
        found = next_token_logits(StreamedModel(self.merged, device, dtype), rows, self._second_half)
        figures = {
            "merge_divergence": divergence(right, found),
            "merge_max_abs_logit_difference": max(
                float((a - b).abs().max()) for a, b in zip(right, found, strict=True)
            ),
        }
        if not figures["merge_divergence"] <= self.bound:
            raise FineryError(
                Reason.GATE_FAILED,
                f"The merged model does not answer like its base with the adapter: they diverge by "
                f"{figures['merge_divergence']:.4f} nats a token, more than {self.bound} "
                "(FINERY_QUANTIZER_MAX_MERGE_DIVERGENCE). Run the job again; check the base model if it recurs.",
                gate="merge",
            )
        return figures

    def _first_half(self, done: int, total: int) -> None:
        self.tell(done, 2 * total)

    def _second_half(self, done: int, total: int) -> None:
        self.tell(total + done, 2 * total)
