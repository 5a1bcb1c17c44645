"""The merge gate: a merged model answers as its base with the adapter on top."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from torch import Tensor, nn

from finery_quantizer.backends.checkpoint.model import checking_dtype, load_model, pick_device
from finery_quantizer.backends.checks.perplexity import divergence, next_token_logits
from finery_quantizer.backends.checks.tokenizers import check_same_files
from finery_shared.errors import FineryError, Reason
from finery_shared.templates.render import Rendered


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """What is compared. `bound` is the largest mean divergence in nats a token."""

    base: Path
    adapter: Path
    merged: Path
    bound: float

    def run(self, rows: Sequence[Rendered]) -> dict[str, float]:
        """Figures of the comparison on `rows`. Raises GATE_FAILED."""
        check_same_files(self.base, self.merged)
        right = self._logits(self.base, rows, self.adapter)
        found = self._logits(self.merged, rows, None)
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

    @staticmethod
    def _logits(model_directory: Path, rows: Sequence[Rendered], adapter: Path | None) -> list[Tensor]:
        device = pick_device()
        model: nn.Module = load_model(model_directory)
        model.to(device, checking_dtype(model_directory))
        if adapter is None:
            return next_token_logits(model, rows)
        tuned: nn.Module = PeftModel.from_pretrained(model, str(adapter)).to(device).eval()
        return next_token_logits(tuned, rows)
