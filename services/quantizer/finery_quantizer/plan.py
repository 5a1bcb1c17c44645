"""What an export reads and makes, and what of it is there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from finery_quantizer.request import ExportRequest, TrainingRecipe, same_quantization
from finery_shared.artifacts import Kind, Manifest, manifest_digest, read_manifest
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import FoundModel, ModelSpec, ResolvedModel

ReadManifest = Callable[[Path], Manifest]
"""`finery_shared.artifacts.verify`, or `look_over` where a caller waits."""


@dataclass(frozen=True)
class ExportPlan:
    """One export, resolved. Paths are absolute.

    `adapter` is the checkpoint to merge, None when `model` (the base, or the model itself) is quantized as it is.
    `merged` and `quantized` are destinations, None for what is not made; `reuse_*` say that the right thing is there.
    """

    request: ExportRequest
    adapter: Path | None
    model: Path
    spec: ModelSpec
    parent: Manifest | None
    recipe: TrainingRecipe
    merged: Path | None
    quantized: Path | None
    reuse_merged: bool = False
    reuse_quantized: bool = False

    @property
    def done(self) -> bool:
        """Whether all that is asked for is there and right."""
        return (self.merged is None or self.reuse_merged) and (self.quantized is None or self.reuse_quantized)

    @property
    def work_dir(self) -> Path:
        """The directory that all output lies in."""
        place = self.quantized or self.merged
        assert place is not None
        return place.parent


@dataclass(frozen=True)
class Draft:
    """A request whose checkpoint was read and whose model was looked for; the model may still have to be fetched."""

    request: ExportRequest
    adapter: Path | None
    found: FoundModel
    parent: Manifest | None
    recipe: TrainingRecipe

    @property
    def work_dir(self) -> Path:
        """The directory that all output lies in; raises INVALID_ARGUMENT if only a path not yet known would tell."""
        if self.request.output_dir:
            return Path(self.request.output_dir)
        beside = self.adapter or self.found.path
        if beside is None:
            name = self.found.model_type
            raise invalid("output_dir", f"{name} comes from a hub: say where the result goes with --output_dir DIR.")
        return beside.parent

    def with_model(self, model: ResolvedModel) -> ExportPlan:
        """The plan, once the model is on this machine."""
        place = self.adapter or model.path
        output = Path(self.request.output_dir) / place.name if self.request.output_dir else place
        merged = _beside(output, "-merged") if self.adapter is not None else None
        quantized = _beside(merged or output, "-awq-int4") if self.request.quant_bits else None
        return ExportPlan(
            self.request, self.adapter, model.path, model.spec, self.parent, self.recipe, merged, quantized
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def check_quantizable(model: str, spec: ModelSpec) -> None:
    """Raise INVALID_ARGUMENT for a quantized model, UNSUPPORTED for one whose sizes no group size divides."""
    if spec.quantized:
        raise invalid("quant_bits", f"{model} is quantized already: pass the model it was made from.")
    if spec.group_size is None:
        sizes = ", ".join(map(str, spec.shape.input_sizes))
        raise FineryError(
            Reason.UNSUPPORTED,
            f"AWQ needs a group size of 128, 64 or 32 that divides every layer's input, and none divides {sizes}: "
            "serve this model unquantized.",
        )


def with_existing(plan: ExportPlan, read: ReadManifest) -> ExportPlan:
    """Mark what is there already and right; raise OUTPUT_EXISTS for what is there and something else."""
    parent = plan.adapter if plan.adapter is not None else plan.model
    reuse_merged = plan.merged is not None and _made_from(plan, plan.merged, Kind.MODEL, parent, read)
    source = plan.merged if plan.merged is not None else plan.model
    reusable = plan.merged is None or reuse_merged
    reuse_quantized = (
        plan.quantized is not None
        and reusable
        and _made_from(plan, plan.quantized, Kind.QUANTIZED_MODEL, source, read)
        and same_quantization(read_manifest(plan.quantized).recipe, plan.request)
    )
    for path, reused in ((plan.merged, reuse_merged), (plan.quantized, reuse_quantized)):
        if path is not None and path.exists() and not reused and not plan.request.exist_ok:
            message = (
                f"{path} exists and was made from something else. Remove it, or pass --exist_ok true to replace it."
            )
            raise FineryError(Reason.OUTPUT_EXISTS, message, path=str(path))
    return replace(plan, reuse_merged=reuse_merged, reuse_quantized=reuse_quantized)


def _made_from(plan: ExportPlan, output: Path, kind: Kind, parent: Path, read: ReadManifest) -> bool:
    """Whether `output` is whole and was made from what `parent` holds now, over the same base model."""
    try:
        manifest = read(output)
        digest = manifest_digest(parent) if (parent / "manifest.json").is_file() else None
    except FineryError:
        return False
    base = str(plan.model) if plan.parent is None or plan.adapter is not None else plan.parent.base_model
    same = manifest.kind is kind and manifest.base_model == base
    return same and manifest.parent == str(parent) and manifest.parent_manifest_sha256 == digest
