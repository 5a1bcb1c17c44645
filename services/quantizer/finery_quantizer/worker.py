"""`python -m finery_quantizer.worker`: runs one attempt of an export job, in a process of its own."""

import sys
from collections.abc import Callable
from pathlib import Path

from finery.quantizer.v1.quantizer_pb2 import ExportSpec
from finery_quantizer.bootstrap import make_planner
from finery_quantizer.convert import request_from
from finery_quantizer.outcome import outcome_of, there_already
from finery_quantizer.settings import QuantizerSettings
from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker


def export(context: WorkerContext, written: Callable[[Path], None] = lambda _directory: None) -> Outcome:
    """Plan again what the service planned, now that it is this job's turn, and do it."""
    settings = QuantizerSettings.load()
    plan = make_planner(settings).plan(request_from(ExportSpec.FromString(context.spec)))
    if plan.done:
        context.log("all of it was made before from the same checkpoint, base and arguments; used again")
        return outcome_of(there_already(plan))
    context.progress(0, 0, "loading")
    from finery_quantizer.backends.export import Export  # imports torch: what the plan refuses is refused before

    return Export(plan, settings, context, written).run()


if __name__ == "__main__":
    sys.exit(run_worker(export))
