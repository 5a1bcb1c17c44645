"""What every service can be told, read from the environment at start."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from finery_shared.errors import FineryError, Reason
from finery_shared.home import Home, split_paths
from finery_shared.rpc.security import GUARDS, RpcSecurity

LISTEN = r"^[^\s:]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$"


class ServiceSettings(BaseSettings):
    """Settings that all services share; each adds its own under its own prefix.

    A field ``x`` of a service with ``env_prefix="FINERY_TRAINER_"`` is read from ``FINERY_TRAINER_X``.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    listen: Annotated[str, Field(pattern=LISTEN)] = "127.0.0.1:0"
    """HOST:PORT to serve gRPC on; port 0 takes a free one."""

    metrics_listen: Annotated[str, Field(pattern=LISTEN)] | None = None
    """HOST:PORT to show figures to Prometheus on, by HTTP; none: nowhere."""

    allow_open: bool = False
    """Serve other machines without any key, on purpose."""

    announce: Path | None = None
    """File to write this process's address and pid to, once it serves."""

    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """How long running calls may take to finish after SIGTERM."""

    home: Path = Field(default_factory=lambda: Home.from_env().root)
    """FINERY_HOME."""

    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Directories that jobs may read from and write to, beside FINERY_HOME: separated by colons, or a JSON list."""

    rpc: Annotated[RpcSecurity, NoDecode] = Field(default_factory=lambda: RpcSecurity.from_env(os.environ))
    """How callers and services of gRPC know each other, from FINERY_RPC_*."""

    key_setting: ClassVar[str] = GUARDS
    """The variables that give a service keys which callers need."""

    @property
    def guarded(self) -> bool:
        """Whether callers need a key."""
        return self.rpc.guarded

    @property
    def host(self) -> str:
        """The host part of ``listen``."""
        return _host(self.listen)

    @property
    def port(self) -> int:
        """The port part of ``listen``."""
        return int(self.listen.rpartition(":")[2])

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Self:
        prefix = self.model_config.get("env_prefix", "")
        if self.metrics_listen is not None and not self.allow_open and not is_loopback(_host(self.metrics_listen)):
            raise ValueError(
                f"{prefix}METRICS_LISTEN={self.metrics_listen} would tell other machines, and asks for no key. Set "
                f"{prefix}ALLOW_OPEN=1 if that is meant."
            )
        if self.guarded or self.allow_open or is_loopback(self.host):
            return self
        raise ValueError(
            f"{prefix}LISTEN={self.listen} would serve other machines without a key. Set {self.key_setting}; or "
            f"{prefix}ALLOW_OPEN=1 if that is meant."
        )

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _real_port(cls, value: str | None) -> str | None:
        if value is not None and int(value.rpartition(":")[2]) > 65535:
            raise ValueError(f"expected a port of at most 65535, got {value!r}")
        return value

    @field_validator("allowed_roots", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(Path(path).absolute() for path in split_paths(value)) if isinstance(value, str) else value

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Raises FineryError naming the variable and what was expected.
        """
        try:
            return cls()
        except ValidationError as error:
            prefix = str(cls.model_config.get("env_prefix", ""))
            lines = [f"{_variable(prefix, e['loc'])}{e['msg']}" for e in error.errors()]
            raise FineryError(Reason.INVALID_ARGUMENT, "; ".join(lines)) from error

    def check_path(self, path: str | Path, field: str) -> Path:
        """The path, absolute and without links, if it lies in FINERY_HOME or in one of the allowed roots."""
        if not Path(path).is_absolute():
            raise FineryError(Reason.INVALID_ARGUMENT, f"{field}: {path} is not an absolute path.", field=field)
        real = Path(path).resolve()
        if any(real.is_relative_to(root.resolve()) for root in (self.home, *self.allowed_roots)):
            return real
        setting = f"{self.model_config.get('env_prefix', '')}ALLOWED_ROOTS"
        raise FineryError(
            Reason.PATH_NOT_ALLOWED,
            f"{field}: {real} lies outside the directories that this service may use. Add its folder to {setting}.",
            field=field,
        )


def _host(listen: str) -> str:
    return listen.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _variable(prefix: str, location: tuple[int | str, ...]) -> str:
    """The variable that a validation error is about; none for an error of several together."""
    name = "_".join(map(str, location)).upper()
    if not name:
        return ""
    return f"{name}: " if name.startswith("FINERY_") else f"{prefix}{name}: "
