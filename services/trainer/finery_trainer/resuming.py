"""Whether a job can go on from a published checkpoint: it must be the same run, made longer."""

from __future__ import annotations

from pathlib import Path

from finery_shared.artifacts import Kind, Manifest, read_manifest
from finery_shared.errors import FineryError, Reason, invalid
from finery_trainer.spec import TrainingSpec

RESUME = "resume"
"""Directory in a checkpoint that holds what another job needs to go on from it."""

_FREE = {
    "resume_from_checkpoint",
    "model_id_or_path",
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "eval_steps",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "early_stopping_patience",
    "cuda_visible_devices",
}
"""Arguments that may differ. Any other would be without effect, or put the data in another order."""


def check_resumable(checkpoint: Path, spec: TrainingSpec) -> None:
    """Raise INVALID_ARGUMENT naming what isn't as it was, UNSUPPORTED, and what `read_manifest` raises."""
    manifest = read_manifest(checkpoint)
    if manifest.kind is not (Kind.MODEL if spec.sft_type == "full" else Kind.ADAPTER):
        raise invalid("sft_type", f"{checkpoint} holds the other kind ({manifest.kind.value}): pass the one it was.")
    _check_same(checkpoint, manifest, spec)
    if not any(name.startswith(f"{RESUME}/") for name in manifest.files):
        raise FineryError(
            Reason.UNSUPPORTED,
            f"{checkpoint} holds no state to go on from: it was trained with DeepSpeed, or made by an export.",
            field="resume_from_checkpoint",
        )


def _check_same(checkpoint: Path, manifest: Manifest, spec: TrainingSpec) -> None:
    for name, value in spec.model_dump(mode="json").items():
        if name not in _FREE and name in manifest.recipe and manifest.recipe[name] != value:
            raise invalid(
                name,
                f"{checkpoint} was trained with {manifest.recipe[name]!r}, not {value!r}. To go on from it, pass what "
                "it was trained with; a longer run by --num_train_epochs or --max_steps.",
            )
