"""`python -m finery_trainer.worker`: runs one attempt of a training job, in a process of its own."""

import sys
from collections.abc import Callable
from pathlib import Path

from finery.trainer.v1.trainer_pb2 import TrainingSpec
from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker
from finery_trainer.bootstrap import make_planner
from finery_trainer.convert import given
from finery_trainer.settings import TrainerSettings


def train(context: WorkerContext, written: Callable[[Path], None] = lambda _directory: None) -> Outcome:
    """Plan again what the service planned, now that it is this job's turn, and do it.

    ``written`` is called with every checkpoint's directory, after its files were written and before they are checked.
    """
    settings = TrainerSettings.load()
    planner = make_planner(settings)
    plan = planner.plan(given(TrainingSpec.FromString(context.spec)))
    data = planner.load_data(plan.spec, lambda: _stop_before_the_first_step(context))
    context.progress(0, 0, "loading")
    from finery_trainer.recipes.sft import Sft  # imports torch: what the plan refuses is refused before

    return Sft(plan, settings.min_eval_rows, settings.questions_on_cpu, context, written).run(data)


def hand_in(context: WorkerContext) -> None:
    """Have the last checkpoint published that a job saved before it was cancelled."""
    settings = TrainerSettings.load()
    plan = make_planner(settings).plan(given(TrainingSpec.FromString(context.spec)))
    from finery_trainer.recipes.sft import Sft  # imports torch

    Sft(plan, settings.min_eval_rows, settings.questions_on_cpu, context).keep_the_last()


def _stop_before_the_first_step(context: WorkerContext) -> None:
    """Raise JobCancelled while there is nothing to keep; a later attempt first hands in what an earlier one saved."""
    if context.attempt == 1:
        context.raise_if_cancelled()


if __name__ == "__main__":
    sys.exit(run_worker(train, hand_in))
