"""Supervised fine-tuning, from a plan to checked checkpoints."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.publication import LOOSE_FILES
from finery_shared.jobs.worker import JobCancelled, Outcome, StagedArtifact, WorkerContext
from finery_trainer.convert import BEST, LAST, OTHER
from finery_trainer.dose import too_small
from finery_trainer.planning import TrainingData, TrainingPlan
from finery_trainer.recipes.arguments import total_steps
from finery_trainer.recipes.checkpoints import describe, run_directory
from finery_trainer.recipes.gates.answering import Chat
from finery_trainer.recipes.gates.behaviour import check_answers
from finery_trainer.recipes.gates.examination import Examiner
from finery_trainer.recipes.gates.files import check_tokenizer
from finery_trainer.recipes.hardware import check_base_precision, checking_dtype, choose_dtype
from finery_trainer.recipes.loading import load_tokenizer
from finery_trainer.recipes.parallel import parameter_count, sharding, sum_over_ranks, together
from finery_trainer.recipes.placement import device_map, free_memory
from finery_trainer.recipes.prepare import PreparedData, prepare
from finery_trainer.recipes.resume import pack_state, unpack_state
from finery_trainer.recipes.row_cache import RowCache
from finery_trainer.recipes.saved import Checkpoint, whole_checkpoints
from finery_trainer.recipes.tokenizing import Tokenizing
from finery_trainer.recipes.training import TrainingResult, check_unfinished, train
from finery_trainer.recipes.tuning import tuning_of
from finery_trainer.recipes.watching import EVENTS, RunFiles

_PHASES = {"loading": 0.08, "training": 0.77, "checking": 0.15}


class Sft:
    """One attempt of a training job."""

    def __init__(
        self,
        plan: TrainingPlan,
        min_eval_rows: int,
        questions_on_cpu: int,
        context: WorkerContext,
        written: Callable[[Path], None] = lambda _directory: None,
    ) -> None:
        self._plan = plan
        self._min_eval_rows = min_eval_rows
        self._questions = None if torch.cuda.is_available() else questions_on_cpu
        self._context = context
        self._written = written
        self._dtype = choose_dtype(plan.spec.dtype)
        self._tuning = tuning_of(plan)
        self._parameters = 0
        self._saved = context.state / "trainer"
        self._files = RunFiles(context.state / "run")
        self._run = run_directory(Path(plan.spec.output_dir), plan.model.spec.model_type, datetime.now())

    def run(self, data: TrainingData) -> Outcome:
        """Train, check, and hand in the best and the last checkpoint, which may be the same, and what else is kept."""
        self._context.plan(_PHASES)
        transformers_logging.disable_progress_bar()
        try:
            return self._run_to_the_end(data)
        except JobCancelled:
            self.keep_the_last()
            raise

    def _run_to_the_end(self, drawn: TrainingData) -> Outcome:
        check_base_precision(self._plan.spec.base_precision)
        data = self._prepare(drawn)
        by_loss = len(data.val) >= self._min_eval_rows
        result = self._train(data, by_loss)
        if self._context.place is not None and self._context.place.rank > 0:
            return Outcome()  # checking and publishing is the first rank's business
        best = result.best(by_loss=by_loss)
        figures = data.figures() | {"train_loss": result.train_loss, "train_seconds": result.seconds}
        if best.eval_loss is not None:
            figures["eval_loss"] = best.eval_loss
        self._context.progress(0, 3, "checking")
        for checkpoint in result.checkpoints:
            self._stage(checkpoint)
        figures |= self._question(self._staged(best))
        artifacts = [self._artifact(c, result.last, best, figures) for c in _ordered(result, best)]
        return Outcome([*artifacts, self._run_files(result.last, best)], figures)

    def _prepare(self, drawn: TrainingData) -> PreparedData:
        """Tokenize the rows, and say what there is and what is left out."""
        spec, selection = self._plan.spec, drawn.selection

        def tick(done: int) -> None:
            self._context.raise_if_cancelled()
            self._context.progress(done, len(selection), "loading")

        how = Tokenizing(self._plan.model.path, spec.max_length, spec.truncation_strategy)
        data = prepare(selection, how, RowCache(drawn.cache), tick)
        for line in data.lines():
            self._context.log(line)
        if warning := too_small(self._plan, total_steps(spec, len(data.train))):
            self._context.log(warning)
        self._context.metrics(0, data.metrics(), "data")
        return data

    def _train(self, data: PreparedData, by_loss: bool) -> TrainingResult:
        self._context.raise_if_cancelled()
        set_seed(self._plan.spec.seed)
        self._context.log(f"watch the run: tensorboard --logdir {self._files.directory / EVENTS}; later in {self._run}")
        shards = sharding(self._plan, self._dtype)
        with together(self._context.place, shards):
            self._go_on_from_published(len(data.train))
            model = self._tuning.load(self._dtype, self._places(), sharded=shards is not None)
            trainable, self._parameters = parameter_count(model, trainable=True), parameter_count(model)
            self._context.log(f"training {trainable:,} of {self._parameters:,} parameters, computing in {self._dtype}")
            result = train(
                model,
                self._plan.spec,
                data.train,
                data.val,
                self._saved,
                self._context,
                best_by_loss=by_loss,
                autocast=self._tuning.autocast(self._dtype, sharded=shards is not None),
                shards=shards,
                files=self._files,
            )
            del model
            gc.collect()  # the trained model lives in cycles; the checks below load it again from disk
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._context.raise_if_cancelled()
        return result

    def _go_on_from_published(self, rows: int) -> None:
        """Put the checkpoint that the job shall go on from where the run looks for its own, unless it has some."""
        source = self._plan.spec.resume_from_checkpoint
        first = self._context.place is None or self._context.place.rank == 0
        if source and first and not whole_checkpoints(self._saved):
            unpack_state(Path(source), self._saved, lambda state: check_unfinished(state, self._plan.spec, rows))
        sum_over_ranks(0)  # the others wait for it

    def _places(self) -> dict[str, int] | None:
        """Where the parts of the model go, if not all on one device."""
        if self._context.place is not None:
            return None
        named = self._plan.spec.cuda_visible_devices is not None
        return device_map(self._plan.model.path, self._dtype, free_memory(), named=named)

    def keep_the_last(self) -> None:
        """Have the last whole checkpoint of a cancelled run published, also one of an attempt before this one."""
        checkpoints = whole_checkpoints(self._saved)
        if not checkpoints:
            return
        try:
            self._stage(checkpoints[-1])
        except FineryError as error:
            if error.reason is not Reason.GATE_FAILED:
                raise
            self._context.log(f"the last checkpoint is not kept: {error.message}")
            return
        last = checkpoints[-1]
        self._context.kept += [self._artifact(last, last, None, {}), self._run_files(last, None)]

    def _staged(self, checkpoint: Checkpoint) -> Path:
        return self._context.staging / f"checkpoint-{checkpoint.step}"

    def _stage(self, checkpoint: Checkpoint) -> None:
        """Make the directory as it will be published, its bytes checked."""
        target = self._staged(checkpoint)
        if target.exists():
            return
        self._tuning.assemble(checkpoint.path, target)
        pack_state(checkpoint.path, target, weights=self._tuning.rounds)
        self._written(target)
        check_tokenizer(target, self._plan.model.path)
        self._tuning.check(target)

    def _question(self, directory: Path) -> dict[str, float]:
        """Load what was written afresh, and see what it does."""
        self._context.progress(1, 3, "checking")
        stop = self._context.raise_if_cancelled
        dtype = checking_dtype(self._dtype, self._parameters)
        places = device_map(self._plan.model.path, dtype, free_memory(), named=False)
        model = self._tuning.reload(directory, dtype, places)
        tokenizer = load_tokenizer(directory)
        check_answers(Chat(model, tokenizer, self._plan.model.spec.stop_tokens, stop))
        self._context.progress(2, 3, "checking")
        examiner = Examiner(self._plan, tokenizer, stop, self._questions)
        report = examiner.examine(model, lambda: self._tuning.base(model, dtype, places))
        for line in report.lines:
            self._context.log(line)
        self._context.metrics(0, report.figures, "score")
        self._context.progress(3, 3, "checking")
        return report.figures

    def _artifact(
        self, checkpoint: Checkpoint, last: Checkpoint, best: Checkpoint | None, figures: dict[str, float]
    ) -> StagedArtifact:
        """A staged checkpoint with its manifest. The figures were measured on the best one alone."""
        directory = self._staged(checkpoint)
        metrics = dict(figures) if checkpoint == best else {}
        if checkpoint.eval_loss is not None:
            metrics["eval_loss"] = checkpoint.eval_loss
        describe(directory, self._tuning.kind, self._plan, self._context.job, metrics)
        role = BEST if checkpoint == best else LAST if checkpoint == last else OTHER
        return StagedArtifact(directory, self._run / directory.name, role)

    def _run_files(self, last: Checkpoint, best: Checkpoint | None) -> StagedArtifact:
        """What people watched the run by, to be moved beside its checkpoints."""
        summary = {"global_step": last.step, "last_model_checkpoint": str(self._run / f"checkpoint-{last.step}")}
        if best is not None:
            summary |= {
                "best_model_checkpoint": str(self._run / f"checkpoint-{best.step}"),
                "best_metric": best.eval_loss,
            }
        self._files.end(summary)
        return StagedArtifact(self._files.directory, self._run, LOOSE_FILES)


def _ordered(result: TrainingResult, best: Checkpoint) -> list[Checkpoint]:
    """The best, the last, then the others."""
    return list(dict.fromkeys((best, result.last, *result.checkpoints)))
