"""From a request to a plan: what is read, what is made where, what is there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from finery_quantizer.calibration import choose_datasets
from finery_quantizer.plan import Draft, ExportPlan, ReadManifest, check_quantizable, with_existing
from finery_quantizer.request import ExportRequest, TrainingRecipe
from finery_shared.artifacts import Kind, Manifest, look_over, verify
from finery_shared.artifacts.manifest import READ_AT_ONCE
from finery_shared.datasets import parse
from finery_shared.datasets.source import is_remote, locate
from finery_shared.errors import FineryError, invalid
from finery_shared.models import (
    CheckPath,
    FoundModel,
    ModelHub,
    ResolvedModel,
    check_readable,
    find_model,
    from_path,
)


@dataclass(frozen=True)
class Accepted:
    """A request that a job is made of: its calibration data sets chosen if that took no time, and where it writes."""

    request: ExportRequest
    work_dir: Path


class Planner:
    """Resolves and checks requests against the file system."""

    def __init__(self, store: Path, hubs: Sequence[ModelHub], check_path: CheckPath) -> None:
        self._store = store
        self._hubs = hubs
        self._check_path = check_path

    def accept(self, request: ExportRequest) -> Accepted:
        """All that can be told while a caller waits: no weights are read, and hubs are asked only whether they answer.

        Raises INVALID_ARGUMENT, UNSUPPORTED, PATH_NOT_ALLOWED, FILE_MISSING, MANIFEST_MISSING, DATA_LOSS,
        MODEL_NOT_FOUND, MODEL_INVALID, OUTPUT_EXISTS, and what data sets raise.
        """
        request.check()
        draft = self._draft(request, look_over)
        found = draft.found
        with _asking_for_base(draft.request, draft.parent if draft.adapter is not None else None):
            found.check_fetchable()
        if request.quant_bits:
            if found.spec is not None:
                check_quantizable(found.model_type, found.spec)
            draft = replace(draft, request=replace(request, datasets=self._datasets_at_once(request, draft.recipe)))
        self._check_path(draft.work_dir, "output_dir")
        decided = bool(draft.request.datasets) or not request.quant_bits
        if found.path is not None and found.spec is not None and decided:
            with_existing(draft.with_model(ResolvedModel(found.path, found.spec)), look_over)
        return Accepted(draft.request, draft.work_dir)

    def plan(self, request: ExportRequest) -> ExportPlan:
        """The plan for a request: everything is verified, what a hub has is fetched. May take minutes.

        Raises what `accept` raises, and MODEL_UNREACHABLE.
        """
        request.check()
        draft = self._draft(request, verify)
        with _asking_for_base(draft.request, draft.parent if draft.adapter is not None else None):
            plan = draft.with_model(draft.found.fetched())
        if request.quant_bits:
            check_quantizable(str(plan.model), plan.spec)
            self._local_data(request.datasets)
            recipe = self._with_readable_data(plan.recipe)
            plan = replace(plan, request=replace(request, datasets=choose_datasets(request, recipe)))
        self._check_path(plan.work_dir, "output_dir")
        return with_existing(plan, verify)

    def _draft(self, request: ExportRequest, read: ReadManifest) -> Draft:
        if not request.ckpt_dir:
            if request.merge_lora:
                raise invalid("ckpt_dir", "--merge_lora needs an adapter: pass its directory with --ckpt_dir.")
            found = self._find(request.model_type, request.model_id_or_path)
            return Draft(request, None, found, None, TrainingRecipe())
        path = self._check_path(request.ckpt_dir, "ckpt_dir")
        manifest = read(path)
        recipe = TrainingRecipe.of(manifest)
        if manifest.kind is Kind.QUANTIZED_MODEL:
            raise invalid(
                "ckpt_dir", f"{path} is quantized already: deploy it, or pass the checkpoint it was made from."
            )
        if manifest.kind is Kind.MODEL:
            if not request.quant_bits:
                raise invalid("ckpt_dir", f"{path} is a whole model: there is nothing to merge. Pass --quant_bits 4.")
            found = FoundModel(manifest.model_type, path, from_path(path, manifest.model_type))
            return Draft(request, None, found, manifest, recipe)
        if not request.merge_lora:
            message = f"{path} is an adapter, and only a whole model can be quantized: pass --merge_lora true as well."
            raise invalid("merge_lora", message)
        return Draft(request, path, self._base(request, manifest), manifest, recipe)

    def _base(self, request: ExportRequest, manifest: Manifest) -> FoundModel:
        """The base of an adapter: the one given, else where the manifest says, else by the model type."""
        recorded = Path(manifest.base_model)
        if not request.model_id_or_path and recorded.is_dir():
            check_readable(recorded, "ckpt_dir", store=self._store, hubs=self._hubs, check_path=self._check_path)
            return FoundModel(manifest.model_type, recorded, from_path(recorded, manifest.model_type))
        with _asking_for_base(request, manifest):
            return self._find(manifest.model_type, request.model_id_or_path)

    def _find(self, model_type: str, model_id_or_path: str) -> FoundModel:
        return find_model(
            model_type or None,
            model_id_or_path or None,
            store=self._store,
            hubs=self._hubs,
            check_path=self._check_path,
        )

    def _datasets_at_once(self, request: ExportRequest, recipe: TrainingRecipe) -> tuple[str, ...]:
        """The data sets to calibrate with, their rows checked; those asked for, unchecked, if that would take long."""
        recipe = recipe if request.datasets else self._with_readable_data(recipe)
        texts = request.datasets or recipe.datasets
        size = sum(map(_size, self._local_data(texts)))
        if size > READ_AT_ONCE or any(is_remote(parse(text)) for text in texts):
            return request.datasets
        return choose_datasets(request, recipe)

    def _local_data(self, texts: Sequence[str]) -> list[Path]:
        """The files and directories of those data sets that lie here; refuses those that this service must not read."""
        found = []
        for spec in map(parse, texts):
            if not is_remote(spec):
                found.append(locate(spec, {}).path)
                if spec.name.startswith("/"):
                    self._check_path(found[-1], "datasets")
        return found

    def _with_readable_data(self, recipe: TrainingRecipe) -> TrainingRecipe:
        """The recipe, without its data sets if this service can't read them: the checkpoint names them, no caller."""
        try:
            self._local_data(recipe.datasets)
        except FineryError:
            return recipe.model_copy(update={"datasets": ()})
        return recipe


@contextmanager
def _asking_for_base(request: ExportRequest, manifest: Manifest | None) -> Iterator[None]:
    """Errors about an adapter's base, which the caller did not name, say how to name it."""
    try:
        yield
    except FineryError as error:
        if manifest is None or request.model_id_or_path:
            raise
        raise FineryError(
            error.reason,
            f"The adapter's base model is no longer at {manifest.base_model}: say where it is with "
            f"--model_id_or_path DIR. ({error.message})",
            model=manifest.base_model,
        ) from error


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
