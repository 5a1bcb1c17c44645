"""What the trainer service can be told, by environment variables that begin with FINERY_TRAINER_."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from finery_shared.home import join_paths
from finery_shared.settings import LISTEN, ServiceSettings


class TrainerSettings(ServiceSettings):
    """Settings of the service and of its workers, which inherit its environment."""

    model_config = SettingsConfigDict(env_prefix="FINERY_TRAINER_", frozen=True, extra="ignore")

    listen: Annotated[str, Field(pattern=LISTEN)] = "127.0.0.1:50051"
    """HOST:PORT to serve gRPC on; port 0 takes a free one."""

    max_running_jobs: Annotated[int, Field(ge=0, le=64)] = 1
    """Jobs that run at a time. 0: none is begun, and those under way are left alone; a service to look at jobs with."""

    checked_at_once: Annotated[int, Field(ge=0)] = 64 * 2**20
    """Bytes of local data files up to which every row is read before a job is accepted; later by its worker."""

    min_eval_rows: Annotated[int, Field(ge=1)] = 8
    """Evaluation rows below which their loss does not decide which checkpoint is the best: the last one is."""

    questions_on_cpu: Annotated[int, Field(ge=1)] = 16
    """Questions of the identity score that a job asks on a CPU; on a GPU it asks all, and reads all held-out text."""

    def accepting_environment(self) -> dict[str, str]:
        """Variables that a job's workers get as they were when it was accepted: its paths were checked by them."""
        return {"FINERY_TRAINER_ALLOWED_ROOTS": join_paths(self.allowed_roots)}

    def worker_environment(self) -> dict[str, str]:
        """The variables by which a worker gets these settings, wherever the service has them from."""
        return {
            **self.rpc.environment,
            "FINERY_HOME": str(self.home),
            **self.accepting_environment(),
            "FINERY_TRAINER_MIN_EVAL_ROWS": str(self.min_eval_rows),
            "FINERY_TRAINER_QUESTIONS_ON_CPU": str(self.questions_on_cpu),
        }
