"""What an export job is asked for: the domain's view of an ExportSpec, defaults filled in or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from finery_shared.artifacts import Manifest
from finery_shared.errors import FineryError, Reason, invalid

METHODS = ("awq",)
BITS = (0, 4)
DEFAULT_DATASETS = ("general-zh", "general-en")


@dataclass(frozen=True)
class ExportRequest:
    """One export. `quant_seqlen` are tokens in a calibration block, `quant_n_samples` calibration rows at most."""

    ckpt_dir: str = ""
    model_type: str = ""
    model_id_or_path: str = ""
    merge_lora: bool = False
    quant_bits: int = 0
    quant_method: str = "awq"
    datasets: tuple[str, ...] = ()
    quant_n_samples: int = 256
    quant_seqlen: int = 2048
    dataset_seed: int = 42
    output_dir: str = ""
    exist_ok: bool = False

    def check(self) -> None:
        """Raise INVALID_ARGUMENT or UNSUPPORTED for what no checkpoint could make right."""
        if not (self.ckpt_dir or self.model_type or self.model_id_or_path):
            raise invalid(
                "ckpt_dir", "say what to export: --ckpt_dir DIR, --model_type NAME or --model_id_or_path DIR."
            )
        if self.quant_bits not in BITS:
            message = f"quant_bits {self.quant_bits} is not supported; 4 (AWQ int4) is, and 0 quantizes nothing."
            raise FineryError(Reason.UNSUPPORTED, message, field="quant_bits")
        if self.quant_bits and self.quant_method not in METHODS:
            message = f"quant_method {self.quant_method!r} is not supported; there is: {', '.join(METHODS)}."
            raise FineryError(Reason.UNSUPPORTED, message, field="quant_method")
        if not self.merge_lora and not self.quant_bits:
            raise invalid("merge_lora", "nothing to do: pass --merge_lora true, --quant_bits 4, or both.")
        for field, value in (("quant_n_samples", self.quant_n_samples), ("quant_seqlen", self.quant_seqlen)):
            if value < 1:
                raise invalid(field, f"{value} is out of range; write a whole number from 1.")


class TrainingRecipe(BaseModel):
    """The part of a training job's recipe that its export needs, as the manifest keeps it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    datasets: tuple[str, ...] = ()
    model_names: tuple[str, ...] = ()
    model_authors: tuple[str, ...] = ()
    system: str | None = None

    @classmethod
    def of(cls, manifest: Manifest | None) -> TrainingRecipe:
        """From an adapter's manifest, or from that of a model which was made from one."""
        if manifest is None:
            return cls()
        try:
            return cls.model_validate(manifest.recipe.get("training", manifest.recipe))
        except ValidationError as error:
            message = f"The recipe in the manifest of this {manifest.model_type} can't be read. Train it again."
            raise FineryError(Reason.DATA_LOSS, message, detail=str(error)) from error


def same_quantization(recipe: object, request: ExportRequest) -> bool:
    """Whether a manifest's recipe asked for the same quantization."""
    fields = ("quant_bits", "quant_method", "quant_n_samples", "quant_seqlen", "dataset_seed")
    if not isinstance(recipe, dict):
        return False
    datasets = recipe.get("datasets")
    same_data = isinstance(datasets, Sequence) and tuple(datasets) == request.datasets
    return same_data and all(recipe.get(field) == getattr(request, field) for field in fields)
