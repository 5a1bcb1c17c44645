"""From a request to a plan: model, data and places, all checked before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_shared.datasets import Selection, parse, select
from finery_shared.datasets.grammar import HubName
from finery_shared.datasets.hubs import DatasetHub
from finery_shared.datasets.registry import find
from finery_shared.datasets.self_cognition import SelfCognitionMix
from finery_shared.datasets.source import locate
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import ModelHub, ResolvedModel, resolve
from finery_shared.models import find as find_model
from finery_trainer import zero
from finery_trainer.combinations import check_combination, look_around
from finery_trainer.resuming import check_resumable
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


@dataclass(frozen=True)
class TrainingData:
    """The rows of a run, drawn but not held, and the directory in which their tokens are kept."""

    selection: Selection
    cache: Path


class Planner:
    """Resolves and checks requests; the same at Create and in the worker."""

    def __init__(
        self,
        store: Path,
        model_hubs: Sequence[ModelHub],
        dataset_hubs: Mapping[HubName, DatasetHub],
        check_path: Callable[[str | Path, str], Path],
        checked_at_once: int,
        cache: Path,
    ) -> None:
        self._store = store
        self._model_hubs = model_hubs
        self._dataset_hubs = dataset_hubs
        self._check_path = check_path
        self._checked_at_once = checked_at_once
        self._cache = cache

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
        model = resolve(
            given["model_type"] or None,
            path or None,
            store=self._store,
            hubs=self._model_hubs,
            check_path=self._check_path,
        )
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
        if spec.resume_from_checkpoint:
            check_resumable(self._check_path(spec.resume_from_checkpoint, "resume_from_checkpoint"), spec)
        if file := zero.file_of(spec.deepspeed):
            self._check_path(file, "deepspeed")
        check_combination(spec, look_around(spec, os.environ))
        return TrainingPlan(spec, model, model.spec.targets.select(spec.lora_target_modules))

    def check_data(self, plan: TrainingPlan) -> None:
        """Read and check every row, unless there are too many to do it while a caller waits.

        Raises what `select` raises, and PATH_NOT_ALLOWED.
        """
        if not plan.spec.datasets:
            raise invalid("dataset", "say what to train on, for instance --dataset self-cognition#500 or a file.")
        size = 0
        for field, texts in (("dataset", plan.spec.datasets), ("val_dataset", plan.spec.val_datasets)):
            for spec in map(parse, texts):
                source = locate(spec, self._dataset_hubs).path
                if os.path.isabs(spec.name):
                    self._check_path(source, field)
                size += _size(source)
        if size <= self._checked_at_once:
            self.load_data(plan)

    def load_data(self, plan: TrainingPlan, tick: Callable[[], None] = lambda: None) -> TrainingData:
        """Read and check all rows, and draw those for training and evaluation.

        ``tick`` is called for every row; what it raises ends the reading. Raises what `select` raises.
        """
        spec = plan.spec
        selection = select(
            spec.datasets,
            val_datasets=spec.val_datasets,
            seed=spec.dataset_seed,
            test_ratio=spec.dataset_test_ratio,
            names=spec.model_names,
            authors=spec.model_authors,
            system=spec.system or "",
            hubs=self._dataset_hubs,
            mix=SelfCognitionMix.shipped(spec.system or "") if plan.teaches_identity else None,
            tick=tick,
        )
        return TrainingData(selection, self._cache)

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
