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
from finery_shared.datasets.self_cognition import SelfCognitionMix
from finery_shared.datasets.source import check_fetchable, is_remote, locate
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import FoundModel, ModelHub, ModelSpec, Recipe, ResolvedModel, find, find_model
from finery_trainer import zero
from finery_trainer.combinations import check_combination, look_around
from finery_trainer.resuming import check_resumable
from finery_trainer.spec import TrainingSpec, fill


@dataclass(frozen=True)
class TrainingPlan:
    """One run, resolved. ``target_modules`` are the names of the linear layers that LoRA adapts."""

    spec: TrainingSpec
    model: ResolvedModel
    target_modules: tuple[str, ...]


@dataclass(frozen=True)
class TrainingData:
    """The rows of a run, drawn but not held, and the directory in which their tokens are kept."""

    selection: Selection
    cache: Path


class Planner:
    """Checks requests at Create, as far as this machine can, and resolves them in the worker."""

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

    def accept(self, given: Mapping[str, Any]) -> TrainingSpec:
        """What a request sets, checked and filled in. The worker fetches what a hub has; that it answers is seen here.

        Every row is read and checked, unless there are too many to do it while a caller waits. Raises what `plan` and
        `load_data` raise.
        """
        found = self._find(given)
        found.check_fetchable()
        spec = self._filled(given, found.model_type, found.spec)
        if not spec.datasets:
            raise invalid("dataset", "say what to train on, for instance --dataset self-cognition#500 or a file.")
        texts = (*spec.datasets, *spec.val_datasets)
        for text in texts:
            check_fetchable(parse(text), self._dataset_hubs)
        sizes = [_size(path) for path in self._local_data(spec)]
        if sum(sizes) <= self._checked_at_once and len(sizes) == len(texts):
            self.load_data(spec)
        return spec

    def plan(self, given: Mapping[str, Any]) -> TrainingPlan:
        """The plan for what a request sets (see `convert.given`). Reads the model's small files, no data.

        Fetches a model that only a hub has, which may take as long as it does. Raises INVALID_ARGUMENT naming the
        field, UNSUPPORTED, PATH_NOT_ALLOWED, and what `find_model` and `FoundModel.fetched` raise.
        """
        model = self._find(given).fetched()
        spec = self._filled(given, model.spec.model_type, model.spec)
        return TrainingPlan(spec, model, model.spec.targets.select(spec.lora_target_modules))

    def _find(self, given: Mapping[str, Any]) -> FoundModel:
        self._check_output(given["output_dir"])
        return find_model(
            given["model_type"] or None,
            given["model_id_or_path"] or None,
            store=self._store,
            hubs=self._model_hubs,
            check_path=self._check_path,
        )

    def _filled(self, given: Mapping[str, Any], model_type: str, known: ModelSpec | None) -> TrainingSpec:
        """The whole spec, by what is known of the model: nothing, before a model that no table names was fetched."""
        named = find(model_type) is not None or os.path.isabs(given["model_id_or_path"])
        name = model_type if named else given["model_type"]
        spec = fill({**given, "model_type": name}, known.recipe if known else Recipe())
        if known is not None:
            if known.quantized:
                raise FineryError(
                    Reason.UNSUPPORTED,
                    f"{model_type} is quantized, and only whole weights can be fine-tuned: name the model that it was "
                    "made from.",
                    field="model_type",
                )
            known.targets.select(spec.lora_target_modules)
        if spec.resume_from_checkpoint:
            check_resumable(self._check_path(spec.resume_from_checkpoint, "resume_from_checkpoint"), spec)
        if file := zero.file_of(spec.deepspeed):
            self._check_path(file, "deepspeed")
        check_combination(spec, look_around(spec, os.environ))
        return spec

    def _local_data(self, spec: TrainingSpec) -> list[Path]:
        """Files and directories of the data sets that no hub has to be asked for."""
        paths = []
        for field, texts in (("dataset", spec.datasets), ("val_dataset", spec.val_datasets)):
            for dataset in (one for one in map(parse, texts) if not is_remote(one)):
                path = locate(dataset, self._dataset_hubs).path
                if os.path.isabs(dataset.name):
                    self._check_path(path, field)
                paths.append(path)
        return paths

    def load_data(self, spec: TrainingSpec, tick: Callable[[], None] = lambda: None) -> TrainingData:
        """Read and check all rows, and draw those for training and evaluation.

        ``tick`` is called for every row; what it raises ends the reading. Raises what `select` raises.
        """
        selection = select(
            spec.datasets,
            val_datasets=spec.val_datasets,
            seed=spec.dataset_seed,
            test_ratio=spec.dataset_test_ratio,
            names=spec.model_names,
            authors=spec.model_authors,
            system=spec.system or "",
            hubs=self._dataset_hubs,
            mix=SelfCognitionMix.shipped(spec.system or "") if spec.teaches_identity else None,
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
