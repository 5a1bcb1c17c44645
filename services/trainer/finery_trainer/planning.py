"""From a request to a plan: model, data and places, all checked before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_shared.datasets import LoadedDatasets, load, parse
from finery_shared.datasets.grammar import HubName
from finery_shared.datasets.hubs import DatasetHub
from finery_shared.datasets.registry import find
from finery_shared.datasets.self_cognition import SelfCognitionMix
from finery_shared.datasets.source import locate
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import ModelHub, ResolvedModel, resolve
from finery_shared.models import find as find_model
from finery_trainer.spec import TrainingSpec, fill

SELF_COGNITION = "self-cognition"


@dataclass(frozen=True)
class TrainingPlan:
    """One run, resolved. ``target_modules`` are the names of the linear layers that LoRA adapts."""

    spec: TrainingSpec
    model: ResolvedModel
    target_modules: tuple[str, ...]

    @property
    def teaches_identity(self) -> bool:
        """Whether the model is given a new name, so that asking for it afterwards makes sense."""
        entries = [find(parse(text).name) for text in self.spec.datasets]
        return any(entry is not None and entry.name == SELF_COGNITION for entry in entries)


class Planner:
    """Resolves and checks requests; the same at Create and in the worker."""

    def __init__(
        self,
        store: Path,
        model_hubs: Sequence[ModelHub],
        dataset_hubs: Mapping[HubName, DatasetHub],
        check_path: Callable[[str | Path, str], Path],
        checked_at_once: int,
    ) -> None:
        self._store = store
        self._model_hubs = model_hubs
        self._dataset_hubs = dataset_hubs
        self._check_path = check_path
        self._checked_at_once = checked_at_once

    def checked_plan(self, given: Mapping[str, Any]) -> TrainingPlan:
        """The plan for a request, its data checked too; raises what `plan` and `check_data` raise."""
        plan = self.plan(given)
        self.check_data(plan)
        return plan

    def plan(self, given: Mapping[str, Any]) -> TrainingPlan:
        """The plan for what a request sets (see `convert.given`). Reads the model's small files, no data.

        Raises INVALID_ARGUMENT naming the field, UNSUPPORTED, PATH_NOT_ALLOWED, and what `resolve` raises.
        """
        self._check_output(given["output_dir"])
        path = given["model_id_or_path"]
        if os.path.isabs(path):
            self._check_path(path, "model_id_or_path")
        model = resolve(given["model_type"] or None, path or None, store=self._store, hubs=self._model_hubs)
        registered = find_model(model.spec.model_type) is not None
        name = model.spec.model_type if registered or os.path.isabs(path) else given["model_type"]
        spec = fill({**given, "model_type": name}, model.spec.recipe)
        if model.spec.quantized:
            raise FineryError(
                Reason.UNSUPPORTED,
                f"{model.spec.model_type} is quantized, and only whole weights can be fine-tuned: name the model that "
                "it was made from.",
                field="model_type",
            )
        return TrainingPlan(spec, model, model.spec.targets.select(spec.lora_target_modules))

    def check_data(self, plan: TrainingPlan) -> None:
        """Read and check every row, unless there are too many to do it while a caller waits.

        Raises what `load` raises, and PATH_NOT_ALLOWED.
        """
        if not plan.spec.datasets:
            raise invalid("dataset", "say what to train on, for instance --dataset self-cognition#500 or a file.")
        sources = [locate(parse(text), Path("/"), self._dataset_hubs).path for text in plan.spec.datasets]
        for text, source in zip(plan.spec.datasets, sources, strict=True):
            if os.path.isabs(parse(text).name):
                self._check_path(source, "dataset")
        if sum(map(_size, sources)) <= self._checked_at_once:
            self.load_data(plan)

    def load_data(self, plan: TrainingPlan) -> LoadedDatasets:
        """The conversations for training and evaluation, in their order, placeholders filled."""
        spec = plan.spec
        return load(
            spec.datasets,
            seed=spec.dataset_seed,
            test_ratio=spec.dataset_test_ratio,
            names=spec.model_names,
            authors=spec.model_authors,
            system=spec.system or "",
            base_dir=Path("/"),
            hubs=self._dataset_hubs,
            mix=SelfCognitionMix.shipped(spec.system or "") if plan.teaches_identity else None,
        )

    def _check_output(self, output_dir: str) -> None:
        if not output_dir:
            raise invalid("output_dir", "say where the checkpoints go: --output_dir DIR.")
        path = self._check_path(output_dir, "output_dir")
        existing = next(place for place in (path, *path.parents) if place.exists())
        if not existing.is_dir():
            raise invalid("output_dir", f"{existing} is a file; name a directory.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise invalid("output_dir", f"{existing} can't be written to; choose another directory.")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
