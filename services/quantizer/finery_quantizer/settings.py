"""What the quantizer service can be told, by environment variables that begin with FINERY_QUANTIZER_."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from finery_shared.home import join_paths
from finery_shared.settings import LISTEN, ServiceSettings

_OF_THE_SERVICE = {"listen", "metrics_listen", "announce", "rpc"}
"""Settings that no other process shares, or that travel by variables of their own."""


class QuantizerSettings(ServiceSettings):
    """Settings of the service and of its workers, which inherit its environment."""

    model_config = SettingsConfigDict(env_prefix="FINERY_QUANTIZER_", frozen=True, extra="ignore")

    listen: Annotated[str, Field(pattern=LISTEN)] = "127.0.0.1:50052"
    """HOST:PORT to serve gRPC on; port 0 takes a free one."""

    max_running_jobs: Annotated[int, Field(ge=0, le=64)] = 1
    """Jobs that run at a time. 0: none is begun, and those under way are left alone; a service to look at jobs with."""

    cpu_calibration_tokens: Annotated[int, Field(ge=512)] = 1024
    """Most calibration tokens that are used without an accelerator: they decide how long a job takes there."""

    min_calibration_tokens: Annotated[int, Field(ge=1)] = 512
    """Fewest calibration tokens that a job accepts."""

    max_merge_divergence: Annotated[float, Field(gt=0)] = 0.02
    """Most that a merged model's next-token distributions may diverge from the adapter's, in nats a token."""

    max_perplexity_ratio: Annotated[float, Field(gt=1)] = 1.35
    """Most that quantization may multiply the perplexity on held-out rows by."""

    rounding_tolerance: Annotated[float, Field(ge=1)] = 1.02
    """How much worse than plain round-to-nearest the perplexity may be, as a factor: room for measurement noise."""

    def environment(self) -> dict[str, str]:
        """Environment variables from which another process reads the same settings."""
        return self._variables(*(name for name in type(self).model_fields if name not in _OF_THE_SERVICE))

    def accepting_environment(self) -> dict[str, str]:
        """Variables that a job's workers get as they were when it was accepted: its paths were checked by them."""
        return self._variables("allowed_roots")

    def _variables(self, *names: str) -> dict[str, str]:
        prefix = str(self.model_config["env_prefix"])
        return {f"{prefix}{name.upper()}": _text(getattr(self, name)) for name in names}


def _text(value: object) -> str:
    return join_paths(value) if isinstance(value, tuple) else str(value)
