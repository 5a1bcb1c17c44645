"""A worker that plans as the real one does, says what it planned, and goes no further."""

import sys

from finery.quantizer.v1.quantizer_pb2 import ExportSpec
from finery_quantizer.bootstrap import make_planner
from finery_quantizer.convert import request_from
from finery_quantizer.settings import QuantizerSettings
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker


def plan(context: WorkerContext) -> Outcome:
    planned = make_planner(QuantizerSettings.load()).plan(request_from(ExportSpec.FromString(context.spec)))
    raise FineryError(Reason.UNSUPPORTED, f"It was only to plan {planned.merged}.")


if __name__ == "__main__":
    sys.exit(run_worker(plan))
