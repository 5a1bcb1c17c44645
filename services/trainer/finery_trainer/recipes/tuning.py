"""The two things that can be trained: an adapter on a frozen model, or the model itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from finery_shared.artifacts import Kind
from finery_trainer.planning import TrainingPlan
from finery_trainer.recipes.checkpoints import assemble_adapter, assemble_model
from finery_trainer.recipes.gates.examination import without_adapter
from finery_trainer.recipes.gates.files import check_adapter, check_model
from finery_trainer.recipes.loading import add_adapter, load_adapter, load_base

Places = Mapping[str, Any] | None


class Tuning(Protocol):
    """What a kind of training does in its own way. Types are those of the arithmetic."""

    kind: Kind
    rounds: bool
    """Whether the published weights are less exact than those in training."""

    def autocast(self, dtype: torch.dtype, *, sharded: bool) -> torch.dtype | None:
        """The type to compute in where parameters are kept in fp32; None where they have their type already."""

    def load(self, dtype: torch.dtype, places: Places, *, sharded: bool) -> Any:
        """The model to train, with what is trainable marked so. ``sharded`` says that DeepSpeed keeps fp32 copies."""

    def assemble(self, saved: Path, target: Path) -> None:
        """Copy what the Trainer saved into a new directory, as it is published."""

    def check(self, directory: Path) -> None:
        """The gate on an assembled directory's bytes. Raises GATE_FAILED."""

    def reload(self, directory: Path, dtype: torch.dtype, places: Places) -> Any:
        """An assembled directory as any other tool would load it, for inference."""

    def base(self, model: Any, dtype: torch.dtype, places: Places) -> AbstractContextManager[Any]:
        """The model as it was before the training, beside a reloaded one."""


class LoraTuning:
    """A low-rank adapter, in fp32 on a frozen base of the type that is computed in."""

    kind = Kind.ADAPTER
    rounds = False

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = plan
        self._base = plan.model.path

    def autocast(self, dtype: torch.dtype, *, sharded: bool) -> torch.dtype | None:
        """None: PEFT casts where base and adapter meet."""
        return None

    def load(self, dtype: torch.dtype, places: Places, *, sharded: bool) -> Any:
        """The base model with a fresh adapter."""
        return add_adapter(load_base(self._base, dtype, places), self._plan)

    def assemble(self, saved: Path, target: Path) -> None:
        """A PEFT directory."""
        assemble_adapter(saved, self._base, target)

    def check(self, directory: Path) -> None:
        """Every adapted layer is there, finite, and does something."""
        shape, spec = self._plan.model.spec.shape, self._plan.spec
        check_adapter(directory, self._plan.target_modules, shape.layers, dora=spec.use_dora)

    def reload(self, directory: Path, dtype: torch.dtype, places: Places) -> Any:
        """Base and adapter."""
        return load_adapter(self._base, directory, dtype, places)

    def base(self, model: Any, dtype: torch.dtype, places: Places) -> AbstractContextManager[Any]:
        """The same model, its adapter switched off."""
        return without_adapter(model)


class FullTuning:
    """Every parameter. They are kept in fp32: at the rates that full training takes, most updates are smaller than
    half a step of bf16, which would round them off.
    """

    kind = Kind.MODEL
    rounds = True

    def __init__(self, plan: TrainingPlan) -> None:
        self._base = plan.model.path

    def autocast(self, dtype: torch.dtype, *, sharded: bool) -> torch.dtype | None:
        """The 16-bit type, unless DeepSpeed does the casting."""
        return None if sharded or dtype is torch.float32 else dtype

    def load(self, dtype: torch.dtype, places: Places, *, sharded: bool) -> Any:
        """The base model, all of it trainable."""
        return load_base(self._base, dtype if sharded else torch.float32, places).requires_grad_(True)

    def assemble(self, saved: Path, target: Path) -> None:
        """A model directory with the base's own configuration, its weights in the base's type."""
        assemble_model(saved, self._base, target)

    def check(self, directory: Path) -> None:
        """Every tensor of the base is there, finite, and at least one has changed."""
        check_model(directory, self._base)

    def reload(self, directory: Path, dtype: torch.dtype, places: Places) -> Any:
        """The model."""
        return load_base(directory, dtype, places).eval()

    @contextmanager
    def base(self, model: Any, dtype: torch.dtype, places: Places) -> Iterator[Any]:
        """The base model, loaded beside the tuned one for as long as this lasts."""
        yield load_base(self._base, dtype, places).eval()


def tuning_of(plan: TrainingPlan) -> Tuning:
    """What ``sft_type`` asks for."""
    return FullTuning(plan) if plan.spec.sft_type == "full" else LoraTuning(plan)
