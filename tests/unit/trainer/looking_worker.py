"""A worker that says which devices it sees, and that it can do nothing with them."""

import os
import sys

from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker


def look(context: WorkerContext) -> Outcome:
    context.log(f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}")
    raise FineryError(Reason.UNSUPPORTED, "It was only to look.")


if __name__ == "__main__":
    sys.exit(run_worker(look))
