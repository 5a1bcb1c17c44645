"""transformers' Trainer over packed rows: an optimizer step's rows, cut into passes by tokens rather than by rows."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from finery_trainer.recipes.collator import cut, learned, pack, pack_apart
from finery_trainer.recipes.fused.fuse import FusedModel
from finery_trainer.recipes.graphs import PassGraphs
from finery_trainer.recipes.passes import PassLimit, pass_limit, shape_for

if TYPE_CHECKING:
    from finery_trainer.recipes.rows import Row

_MOST_SHAPES = 24
"""Shapes of passes that are recorded: each takes half a second, and some memory."""


def keep_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """The collator: rows stay rows until those of the whole step are there."""
    return {"rows": tuple(rows)}


class PackedTrainer(Trainer):  # type: ignore[misc]  # transformers is not checked
    """A Trainer whose batch size and accumulation say which rows make a step, and nothing about how they are computed.

    The rows of a step are packed into as few passes as memory allows. The loss is the mean over all learned tokens of
    the step (on all ranks), so cutting never changes it. ``fused``: what `fuse` put into the model, if it did.
    """

    def __init__(
        self, *args: Any, fused: FusedModel | None = None, max_tokens: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, data_collator=keep_rows, **kwargs)
        self._fused = fused
        self._max_tokens = max_tokens
        self._limit: PassLimit | None = None
        self._ran = False
        self.tokens_seen = 0
        """Tokens of the rows that this process has trained on; nothing that was filled in counts."""

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """The micro-batches of a step: all passes in the last one, unless DeepSpeed counts micro-batches itself."""
        batches = [batch["rows"] for batch in itertools.islice(epoch_iterator, num_batches)]
        rows = [row for batch in batches for row in batch]
        self.tokens_seen += sum(len(row.input_ids) for row in rows)
        count: Tensor | int | None = learned(rows) if rows else None
        if count is not None and self.args.world_size > 1:
            count = self.accelerator.gather(torch.tensor([count], device=device)).sum()
        if self.is_deepspeed_enabled:
            return [{"passes": (self._packed(batch),)} for batch in batches], count
        passes = tuple(self._packed(group) for group in cut(rows, self.limit.tokens)) if rows else ()
        return [{"passes": ()} for _ in batches[1:]] + [{"passes": passes}] * bool(batches), count

    def training_step(
        self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward over the passes; the loss of what they hold, as a share of the step's."""
        # Not ``model``: an engine of DeepSpeed's around it says that it is in training, whatever it holds.
        if not self.model.training:
            model.train()
        passes = inputs["passes"]
        total = torch.zeros((), device=self.args.device)
        recording = bool(passes) and self._ran and self._records()
        if recording:
            self._recorder.attach()
        for i, one in enumerate(passes):
            if recording:
                loss = self._replay(one, num_items_in_batch)
            else:
                with contextlib.nullcontext() if i == len(passes) - 1 else self.accelerator.no_sync(model):
                    loss = self.compute_loss(model, one, num_items_in_batch=num_items_in_batch)
                    options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
                    self.accelerator.backward(loss, **options)
            total += loss.detach()
        self._ran = self._ran or bool(passes)
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of a pass's losses over the step's number of learned tokens; times the ranks, whose mean is taken."""
        inputs = {name: _moved(value, self.args.device) for name, value in inputs.items()}
        targets = inputs.pop("shift_labels")
        inputs.pop("labels")
        if self._fused is None:
            outputs = model(**inputs, use_cache=False)
            total = torch.nn.functional.cross_entropy(outputs.logits[0].float(), targets[0], reduction="sum")
        else:
            positions = inputs.pop("logits_to_keep")
            if model.training and "dropout_seeds" not in inputs:
                inputs["dropout_seeds"] = _moved(_draw_seeds(), self.args.device)
            with self._fused.head.deferred():
                outputs = model(**inputs, use_cache=False)
            total = self._fused.head.loss(outputs.logits.flatten(0, 1), positions, targets[0])
        count = (targets >= 0).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / count * (self.args.world_size if self.model.training else 1)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Mean loss over all learned tokens of a data set, in nats."""
        model = self.model_wrapped
        model.eval()
        batches = [batch["rows"] for batch in dataloader]
        rows = [row for batch in batches for row in batch]
        # Every pass of a rank that holds a part of each layer is a pass of all of them: they need as many.
        groups = batches if self.is_deepspeed_enabled else cut(rows, self.limit.tokens) if rows else ()
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            for group in groups:
                total += self.compute_loss(model, self._packed(group), num_items_in_batch=1)
        sums = torch.stack([total, torch.tensor(float(learned(rows)), dtype=torch.float64, device=total.device)])
        if self.args.world_size > 1:
            sums = self.accelerator.gather(sums[None]).sum(0)
        model.train()
        metrics = {f"{metric_key_prefix}_loss": (sums[0] / sums[1]).item()}
        return EvalLoopOutput(None, None, metrics, num_samples=self.num_examples(dataloader))

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Estimated operations of a micro-batch."""
        tokens = sum(one["input_ids"].numel() for one in inputs["passes"])
        return tokens * self._operations_a_token if tokens else 0

    @property
    def recording_seconds(self) -> float:
        """Time spent on recording passes, so far."""
        return self._recorder.seconds if "_recorder" in self.__dict__ else 0.0

    @property
    def limit(self) -> PassLimit:
        """How many tokens a pass may have, found out when the first step is packed: the model lies in memory then."""
        if self._limit is None:
            self._limit = pass_limit(self.args.device, self._fused, self._longest, self._max_tokens)
            if self._fused is not None:
                self._fused.checkpoint(self._limit.checkpointing)
        return self._limit

    @functools.cached_property
    def _operations_a_token(self) -> int:
        """Two a weight forward and two backward; the frozen weights' own gradients aren't made."""
        return int(4 * self.model.num_parameters(exclude_embeddings=True))

    @functools.cached_property
    def _longest(self) -> int:
        """Tokens of the longest row."""
        sets = [data for data in (self.train_dataset, self.eval_dataset) if data is not None]
        return max((length for data in sets for length in _lengths(data)), default=0)

    def _packed(self, rows: Sequence[Row]) -> dict[str, Any]:
        """A pass in host memory."""
        if self.args.device.type == "cuda":
            shape = shape_for(rows, self._longest, recorded=self._records())
            batch = pack_apart(rows, shape.tokens, shape.predictions, shape.boundaries)
            if shape.longest is not None:
                batch["longest"] = shape.longest
        else:
            batch = pack(rows)
        # A mask of four dimensions is taken as it is: the attention reads segments, and a real one would be (T, T).
        batch["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        return batch

    def _records(self) -> bool:
        """Whether passes are recorded once the first has run, which makes what is made on first use.

        Not where something happens between ranks, or at the embeddings, beside the model's own.
        """
        if self._fused is None or self.args.device.type != "cuda" or self.args.world_size > 1:
            return False
        return not self.is_deepspeed_enabled and not self.model.get_input_embeddings()._forward_hooks

    @functools.cached_property
    def _recorder(self) -> PassGraphs:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return PassGraphs(self._recordable, trained, most=_MOST_SHAPES)

    def _recordable(self, batch: Mapping[str, Any]) -> Tensor:
        """A whole pass that reads nothing but its inputs."""
        inputs = dict(batch)
        count = inputs.pop("count")
        loss = self.compute_loss(self.model, inputs, num_items_in_batch=count)
        loss.backward()
        return loss.detach()

    def _replay(self, one: Mapping[str, Any], count: Tensor | int | None) -> Tensor:
        fixed = {name: value for name, value in one.items() if name != "segments"}
        fixed["segments"] = ((0, int(one["longest"])),)  # a recorded attention is launched for rows of any length
        seeds, number = _draw_seeds(), torch.tensor(float(count or 1))
        return self._recorder.run(_pinned(fixed | {"dropout_seeds": seeds, "count": number}))


def _lengths(data: Any) -> Sequence[int]:
    lengths = getattr(data, "lengths", None)
    return [len(row.input_ids) for row in data] if lengths is None else lengths


def _moved(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor) or value.device.type == device.type:
        return value
    return value.pin_memory().to(device, non_blocking=True)


def _pinned(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}


def _draw_seeds() -> Tensor:
    """Seeds of a pass's dropout masks, from the generator whose state checkpoints keep."""
    return torch.randint(2**31 - 1, (2,), dtype=torch.int32)
