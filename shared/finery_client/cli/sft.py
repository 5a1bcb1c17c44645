"""``finery sft``."""

from __future__ import annotations

from finery_client.arguments import SftArguments
from finery_client.calls import Calls
from finery_client.cli.job import run_job
from finery_client.cli.screen import Screen
from finery_client.connect import Connection
from finery_client.jobs import TrainingJobs
from finery_client.results import TrainingResult
from finery_client.specs import training_spec


def run(arguments: SftArguments, screen: Screen) -> int:
    """Fine-tune, follow the job, and end with the checkpoint."""
    with Connection.from_env(screen.starting) as services:
        spec = training_spec(arguments, services.here)
        endpoint = services.endpoint("trainer")
        with Calls(endpoint) as calls:
            result = TrainingResult.of(run_job(TrainingJobs(calls), spec, endpoint, screen))
    screen.figures(result.figures)
    screen.result(f"last_model_checkpoint: {result.last_model_checkpoint}")
    screen.result(f"best_model_checkpoint: {result.best_model_checkpoint}")
    return 0
