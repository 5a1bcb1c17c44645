"""What the gateway can be told, read from FINERY_GATEWAY_* and FINERY_INFERENCE."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from finery_gateway.auth import is_whole
from finery_shared.settings import LISTEN, ServiceSettings


class Settings(ServiceSettings):
    """Settings of one gateway process."""

    model_config = SettingsConfigDict(
        env_prefix="FINERY_GATEWAY_", frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    listen: Annotated[str, Field(pattern=LISTEN)] = "127.0.0.1:8000"
    """HOST:PORT to serve HTTP on; port 0 takes a free one."""

    inference: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("127.0.0.1:50053",), validation_alias="FINERY_INFERENCE"
    )
    """Inference processes, HOST:PORT or dns:///HOST:PORT, separated by commas."""

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys that clients may use, separated by commas; "sha256:<hex>" holds a key's digest. None: no key is needed."""

    api_keys_file: Path | None = None
    """File of further keys, one a line, readable by its owner alone; read again when it changes."""

    metrics_guarded: bool = False
    """Whether /metrics needs a key, as all that asks a model does."""

    tls_cert: Path | None = None
    """PEM file of the certificate, and those above it, to serve HTTPS with."""

    tls_key: Path | None = None
    """PEM file of the certificate's key."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins (https://app.example.org) whose pages may call the API from a browser, separated by commas; * is all."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve the address; each takes about a core under load."""

    worker_listener: int | None = None
    """Descriptor of the socket that a worker serves on; set by the process that starts it."""

    worker_pipe: int | None = None
    """Descriptor by which a worker and the process that started it know of each other; set with the one above."""

    request_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Longest time that one answer may take."""

    drain_delay_seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    """How long new requests are still served after SIGTERM, while /ready says no: load balancers take a moment."""

    body_bytes: Annotated[int, Field(gt=0)] = 16 * 2**20
    """Longest request body."""

    keepalive_seconds: Annotated[float, Field(gt=0)] = 15.0
    """A stream that has nothing to say sends a comment this often."""

    send_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A client that takes nothing of its stream for this long is cut off."""

    stale_seconds: Annotated[float, Field(gt=0)] = 2.0
    """An inference process that was silent for this long gets requests only if no other one has the model."""

    lost_seconds: Annotated[float, Field(gt=0)] = 10.0
    """An inference process that was silent for this long counts as dead; its requests end."""

    look_up_seconds: Annotated[float, Field(gt=0)] = 5.0
    """The names among the inference processes are looked up this often."""

    key_setting: ClassVar[str] = "FINERY_GATEWAY_API_KEYS or FINERY_GATEWAY_API_KEYS_FILE"

    @field_validator("inference", "api_keys", "cors_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("inference")
    @classmethod
    def _some_backend(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one HOST:PORT, separated by commas")
        for address in value:
            port = address.removeprefix("dns:///").rpartition(":")[2]
            if not port.isdecimal():
                raise ValueError(f"expected HOST:PORT or dns:///HOST:PORT, got {address!r}")
        return tuple(dict.fromkeys(value))

    @field_validator("cors_origins")
    @classmethod
    def _whole_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"expected * or https://HOST[:PORT] without a path, got {origin!r}")
        return value

    @field_validator("api_keys")
    @classmethod
    def _whole_digests(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            if not is_whole(key.get_secret_value()):
                raise ValueError("expected 64 lower-case hex digits after sha256:")
        return value

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_cert is None) is not (self.tls_key is None):
            raise ValueError("FINERY_GATEWAY_TLS_CERT and FINERY_GATEWAY_TLS_KEY: set both, or neither")
        if self.metrics_guarded and not self.guarded:
            raise ValueError(f"FINERY_GATEWAY_METRICS_GUARDED=1 needs keys: set {self.key_setting}")
        return self

    @property
    def guarded(self) -> bool:
        """Whether callers need a key."""
        return bool(self.api_keys) or self.api_keys_file is not None
