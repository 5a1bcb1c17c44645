"""From a request to a plan: what is read, what is made where, what is there already. Everything is checked at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finery_quantizer.calibration import choose_datasets
from finery_quantizer.request import ExportRequest, TrainingRecipe, same_quantization
from finery_shared.artifacts import Kind, Manifest, manifest_digest, read_manifest, verify
from finery_shared.datasets import parse
from finery_shared.datasets.source import locate
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import CheckPath, ModelHub, ModelSpec, ResolvedModel, check_readable, from_path, resolve


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


class Planner:
    """Resolves and checks requests against the file system; the same at Create and in the worker."""

    def __init__(self, store: Path, hubs: Sequence[ModelHub], check_path: CheckPath) -> None:
        self._store = store
        self._hubs = hubs
        self._check_path = check_path

    def plan(self, request: ExportRequest) -> ExportPlan:
        """The plan for a request, its calibration data sets chosen.

        Raises INVALID_ARGUMENT, UNSUPPORTED, PATH_NOT_ALLOWED, FILE_MISSING, MANIFEST_MISSING, DATA_LOSS,
        MODEL_NOT_FOUND, MODEL_INVALID, OUTPUT_EXISTS, and what data sets raise.
        """
        request.check()
        plan = self._from_checkpoint(request) if request.ckpt_dir else self._from_model(request)
        if request.quant_bits:
            _check_quantizable(plan)
            self._check_datasets(request.datasets)
            recipe = self._with_readable_datasets(plan.recipe)
            plan = replace(plan, request=replace(request, datasets=choose_datasets(request, recipe)))
        self._check_path(plan.work_dir, "output_dir")
        return _with_existing(plan)

    def _from_checkpoint(self, request: ExportRequest) -> ExportPlan:
        path = self._check_path(request.ckpt_dir, "ckpt_dir")
        manifest = verify(path)
        output = Path(request.output_dir) / path.name if request.output_dir else path
        recipe = TrainingRecipe.of(manifest)
        if manifest.kind is Kind.QUANTIZED_MODEL:
            raise invalid(
                "ckpt_dir", f"{path} is quantized already: deploy it, or pass the checkpoint it was made from."
            )
        if manifest.kind is Kind.MODEL:
            if not request.quant_bits:
                raise invalid("ckpt_dir", f"{path} is a whole model: there is nothing to merge. Pass --quant_bits 4.")
            spec = from_path(path, manifest.model_type)
            return ExportPlan(request, None, path, spec, manifest, recipe, None, _beside(output, "-awq-int4"))
        if not request.merge_lora:
            message = f"{path} is an adapter, and only a whole model can be quantized: pass --merge_lora true as well."
            raise invalid("merge_lora", message)
        base, spec = self._base(request, manifest)
        merged = _beside(output, "-merged")
        quantized = _beside(output, "-merged-awq-int4") if request.quant_bits else None
        return ExportPlan(request, path, base, spec, manifest, recipe, merged, quantized)

    def _base(self, request: ExportRequest, manifest: Manifest) -> tuple[Path, ModelSpec]:
        """The base of an adapter: the one given, else where the manifest says, else by the model type."""
        if request.model_id_or_path:
            found = self._resolve(manifest.model_type, request.model_id_or_path)
        elif Path(manifest.base_model).is_dir():
            recorded = Path(manifest.base_model)
            check_readable(recorded, "ckpt_dir", store=self._store, hubs=self._hubs, check_path=self._check_path)
            return recorded, from_path(recorded, manifest.model_type)
        else:
            try:
                found = self._resolve(manifest.model_type)
            except FineryError as error:
                raise FineryError(
                    error.reason,
                    f"The adapter's base model is no longer at {manifest.base_model}: say where it is with "
                    f"--model_id_or_path DIR. ({error.message})",
                    model=manifest.base_model,
                ) from error
        return found.path, found.spec

    def _from_model(self, request: ExportRequest) -> ExportPlan:
        if request.merge_lora:
            raise invalid("ckpt_dir", "--merge_lora needs an adapter: pass its directory with --ckpt_dir.")
        found = self._resolve(request.model_type, request.model_id_or_path)
        output = Path(request.output_dir) / found.path.name if request.output_dir else found.path
        quantized = _beside(output, "-awq-int4")
        return ExportPlan(request, None, found.path, found.spec, None, TrainingRecipe(), None, quantized)

    def _resolve(self, model_type: str, model_id_or_path: str = "") -> ResolvedModel:
        return resolve(
            model_type or None,
            model_id_or_path or None,
            store=self._store,
            hubs=self._hubs,
            check_path=self._check_path,
        )

    def _check_datasets(self, texts: Sequence[str]) -> None:
        """Refuse data files that lie where this service must not read."""
        for spec in map(parse, texts):
            if spec.name.startswith("/"):
                self._check_path(locate(spec, {}).path, "datasets")

    def _with_readable_datasets(self, recipe: TrainingRecipe) -> TrainingRecipe:
        """The recipe, without its data sets if this service can't read them: the checkpoint names them, no caller."""
        try:
            self._check_datasets(recipe.datasets)
        except FineryError:
            return recipe.model_copy(update={"datasets": ()})
        return recipe


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _check_quantizable(plan: ExportPlan) -> None:
    if plan.spec.quantized:
        raise invalid("quant_bits", f"{plan.model} is quantized already: pass the model it was made from.")
    if plan.spec.group_size is None:
        sizes = ", ".join(map(str, plan.spec.shape.input_sizes))
        raise FineryError(
            Reason.UNSUPPORTED,
            f"AWQ needs a group size of 128, 64 or 32 that divides every layer's input, and none divides {sizes}: "
            "serve this model unquantized.",
        )


def _with_existing(plan: ExportPlan) -> ExportPlan:
    """Mark what is there already and right; raise OUTPUT_EXISTS for what is there and something else."""
    parent = plan.adapter if plan.adapter is not None else plan.model
    reuse_merged = plan.merged is not None and _made_from(plan, plan.merged, Kind.MODEL, parent)
    source = plan.merged if plan.merged is not None else plan.model
    reusable = plan.merged is None or reuse_merged
    reuse_quantized = (
        plan.quantized is not None
        and reusable
        and _made_from(plan, plan.quantized, Kind.QUANTIZED_MODEL, source)
        and same_quantization(read_manifest(plan.quantized).recipe, plan.request)
    )
    for path, reused in ((plan.merged, reuse_merged), (plan.quantized, reuse_quantized)):
        if path is not None and path.exists() and not reused and not plan.request.exist_ok:
            message = (
                f"{path} exists and was made from something else. Remove it, or pass --exist_ok true to replace it."
            )
            raise FineryError(Reason.OUTPUT_EXISTS, message, path=str(path))
    return replace(plan, reuse_merged=reuse_merged, reuse_quantized=reuse_quantized)


def _made_from(plan: ExportPlan, output: Path, kind: Kind, parent: Path) -> bool:
    """Whether `output` is whole and was made from what `parent` holds now, over the same base model."""
    try:
        manifest = verify(output)
        digest = manifest_digest(parent) if (parent / "manifest.json").is_file() else None
    except FineryError:
        return False
    base = str(plan.model) if plan.parent is None or plan.adapter is not None else plan.parent.base_model
    same = manifest.kind is kind and manifest.base_model == base
    return same and manifest.parent == str(parent) and manifest.parent_manifest_sha256 == digest
