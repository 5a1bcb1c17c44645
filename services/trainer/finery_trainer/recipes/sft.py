"""Supervised fine-tuning, from a plan to checked checkpoints."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from finery_shared.datasets import LoadedDatasets
from finery_shared.jobs.worker import JobCancelled, Outcome, StagedArtifact, WorkerContext
from finery_trainer.convert import BEST, LAST
from finery_trainer.planning import TrainingPlan
from finery_trainer.recipes.checkpoints import assemble, describe, run_directory
from finery_trainer.recipes.gates.answering import Chat
from finery_trainer.recipes.gates.behaviour import check_answers, identity_figures, retention_figures
from finery_trainer.recipes.gates.files import check_adapter, check_tokenizer
from finery_trainer.recipes.hardware import checking_dtype, choose_dtype
from finery_trainer.recipes.loading import add_adapter, load_adapter, load_base, load_tokenizer
from finery_trainer.recipes.rows import TokenizedRows, require_rows, tokenize
from finery_trainer.recipes.training import Checkpoint, TrainingResult, train

_PHASES = {"loading": 0.08, "training": 0.77, "checking": 0.15}


class Sft:
    """One attempt of a training job."""

    def __init__(
        self,
        plan: TrainingPlan,
        data: LoadedDatasets,
        min_eval_rows: int,
        context: WorkerContext,
        written: Callable[[Path], None],
    ) -> None:
        self._plan = plan
        self._data = data
        self._min_eval_rows = min_eval_rows
        self._context = context
        self._written = written
        self._dtype = choose_dtype(plan.spec.dtype)
        self._parameters = 0
        self._run = run_directory(Path(plan.spec.output_dir), plan.model.spec.model_type, datetime.now())

    def run(self) -> Outcome:
        """Train, check, and hand in the best and the last checkpoint, which may be the same."""
        self._context.plan(_PHASES)
        transformers_logging.disable_progress_bar()
        tokenizer = load_tokenizer(self._plan.model.path)
        rows = tokenize(tokenizer, self._data.train, self._plan.spec.max_length)
        require_rows(rows, self._plan.spec.max_length)
        eval_rows = tokenize(tokenizer, self._data.val, self._plan.spec.max_length)
        self._tell(rows, eval_rows)
        result = self._train(rows, eval_rows)
        best = result.best(by_loss=len(eval_rows.rows) >= self._min_eval_rows)
        figures = {"train_loss": result.train_loss, "train_seconds": result.seconds}
        if best.eval_loss is not None:
            figures["eval_loss"] = best.eval_loss
        directories = self._stage(best, result.last)
        try:
            figures |= self._question(directories[best.step])
        except JobCancelled:
            self._keep(directories[result.last.step], result.last)
            raise
        artifacts = [self._describe(directories[c.step], c, figures) for c in _distinct(best, result.last)]
        roles = [BEST] if best.step == result.last.step else [BEST, LAST]
        return Outcome([_artifact(*pair, self._run) for pair in zip(artifacts, roles, strict=True)], figures)

    def _tell(self, rows: TokenizedRows, eval_rows: TokenizedRows) -> None:
        tokens = sum(len(row.input_ids) for row in rows.rows)
        left_out = rows.too_long + eval_rows.too_long
        self._context.log(
            f"{len(rows.rows)} rows to train on ({tokens} tokens), {len(eval_rows.rows)} to evaluate on, "
            f"{left_out} left out because they are longer than {self._plan.spec.max_length} tokens"
        )

    def _train(self, rows: TokenizedRows, eval_rows: TokenizedRows) -> TrainingResult:
        self._context.raise_if_cancelled()
        set_seed(self._plan.spec.seed)
        model = add_adapter(load_base(self._plan.model.path, self._dtype), self._plan)
        trainable, self._parameters = model.get_nb_trainable_parameters()
        self._context.log(f"training {trainable:,} of {self._parameters:,} parameters, base model in {self._dtype}")
        output = self._context.staging / "trainer"
        result = train(model, self._plan.spec, rows.rows, eval_rows.rows, output, self._context)
        del model
        gc.collect()  # the trained model lives in cycles; the checks below load it again from disk
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._context.cancel_requested:
            if result.checkpoints:
                self._keep(self._stage(result.last)[result.last.step], result.last)
            raise JobCancelled
        return result

    def _keep(self, directory: Path, checkpoint: Checkpoint) -> None:
        """Have a cancelled run's last whole checkpoint published."""
        self._context.kept.append(_artifact(self._describe(directory, checkpoint, {}), LAST, self._run))

    def _stage(self, *checkpoints: Checkpoint) -> dict[int, Path]:
        """Directories as they will be published, by step, their bytes checked."""
        self._context.progress(0, 3, "checking")
        directories = {}
        for checkpoint in _distinct(*checkpoints):
            target = self._context.staging / f"checkpoint-{checkpoint.step}"
            assemble(checkpoint.path, self._plan.model.path, target)
            self._written(target)
            check_tokenizer(target, self._plan.model.path)
            check_adapter(target, self._plan.target_modules, self._plan.model.spec.shape.layers)
            directories[checkpoint.step] = target
        return directories

    def _question(self, directory: Path) -> dict[str, float]:
        """Load the written adapter afresh, and see what it does."""
        self._context.progress(1, 3, "checking")
        stop = self._context.raise_if_cancelled
        model = load_adapter(self._plan.model.path, directory, checking_dtype(self._dtype, self._parameters))
        tokenizer = load_tokenizer(directory)
        chat = Chat(model, tokenizer, self._plan.model.spec.stop_tokens, stop)
        check_answers(chat)
        self._context.progress(2, 3, "checking")
        figures = retention_figures(model, tokenizer, stop)
        if self._plan.teaches_identity:
            figures |= identity_figures(chat, self._plan.spec, self._plan.model.spec.identity)
        self._context.metrics(0, figures, "score")
        self._context.progress(3, 3, "checking")
        return figures

    def _describe(self, directory: Path, checkpoint: Checkpoint, figures: dict[str, float]) -> Path:
        metrics = dict(figures)
        metrics.pop("eval_loss", None)
        if checkpoint.eval_loss is not None:
            metrics["eval_loss"] = checkpoint.eval_loss
        describe(directory, self._plan, self._context.job, metrics)
        return directory


def _distinct(*checkpoints: Checkpoint) -> list[Checkpoint]:
    return list({checkpoint.step: checkpoint for checkpoint in checkpoints}.values())


def _artifact(directory: Path, role: str, run: Path) -> StagedArtifact:
    return StagedArtifact(directory, run / directory.name, role)
