"""A worker that plans as the real one does, says what it planned, and goes no further."""

import sys

from finery.trainer.v1.trainer_pb2 import TrainingSpec
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker
from finery_trainer.bootstrap import make_planner
from finery_trainer.convert import given
from finery_trainer.settings import TrainerSettings


def plan(context: WorkerContext) -> Outcome:
    planned = make_planner(TrainerSettings.load()).plan(given(TrainingSpec.FromString(context.spec)))
    context.log(f"planned {planned.model.path}")
    raise FineryError(Reason.UNSUPPORTED, "It was only to plan.")


if __name__ == "__main__":
    sys.exit(run_worker(plan))
