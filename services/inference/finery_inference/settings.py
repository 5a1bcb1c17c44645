"""What the inference service can be told, read from FINERY_INFERENCE_*."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from finery_shared.settings import LISTEN, ServiceSettings


class Settings(ServiceSettings):
    """Settings of one inference process."""

    model_config = SettingsConfigDict(env_prefix="FINERY_INFERENCE_", frozen=True, extra="ignore")

    listen: Annotated[str, Field(pattern=LISTEN)] = "127.0.0.1:50053"
    """HOST:PORT to serve gRPC on; port 0 takes a free one."""

    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = "0"
    """Name of this process among several on one machine: each has deployments of its own."""

    engine: Literal["vllm", "fake"] = "vllm"
    """What answers; "fake" needs no model, for tests and load tests."""

    max_requests: Annotated[int, Field(ge=1)] = 2048
    """Requests of one model, running and waiting, at a time; more are refused, so that none waits for ever."""

    hung_seconds: Annotated[float, Field(ge=0)] = 120.0
    """How long an engine may make no step while it has something to do before it is killed and started again; ten times
    as long on a CPU that computes. 0 is for ever."""

    cpu_kv_cache_mib: Annotated[int, Field(ge=0)] = 0
    """Key-value cache of an engine on a machine without a GPU, in MiB; 0 is four requests of full length."""

    cpu_threads: Annotated[int, Field(ge=0)] = 0
    """Threads of an engine on a machine without a GPU; 0 takes all cores but one."""

    fake_start_seconds: Annotated[float, Field(ge=0)] = 0.0
    """How long the fake engine takes to load."""

    fake_first_token_seconds: Annotated[float, Field(ge=0)] = 0.0
    """How long the fake engine takes to a first token."""

    fake_tokens_per_second: Annotated[float, Field(ge=0)] = 0.0
    """Tokens that the fake engine makes for each answer; 0 is as fast as can be."""

    fake_tokens_per_delta: Annotated[int, Field(ge=1)] = 1
    """Tokens that the fake engine sends at once."""

    fake_answer_tokens: Annotated[int, Field(ge=1)] = 32
    """Length of the fake engine's answers, unless something else ends them."""

    fake_echo: bool = False
    """Whether the fake engine answers with the last user's message."""

    @property
    def state(self) -> Path:
        """Directory of this process's database."""
        return self.home / "inference" / self.instance
