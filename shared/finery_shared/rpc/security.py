"""How gRPC callers and services know each other: a bearer token, TLS, or both. Read from FINERY_RPC_*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from finery_shared.errors import FineryError, Reason
from finery_shared.secret_files import read_secret

PREFIX = "FINERY_RPC_"
_TOKEN, _TOKEN_FILE, _CERT, _KEY, _CA, _NAME = (
    f"{PREFIX}{name}" for name in ("TOKEN", "TOKEN_FILE", "TLS_CERT", "TLS_KEY", "TLS_CA", "TLS_SERVER_NAME")
)
GUARDS = f"{_TOKEN_FILE}, or {_CERT}, {_KEY} and {_CA}"
"""The settings that keep strangers out, for messages."""

SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Tls:
    """PEM texts: this process's certificate chain and key, if it has them, and whom it trusts.

    A service needs a certificate; with a CA it asks callers for one, too. A caller checks the service's certificate
    against the CA, else against the roots that gRPC comes with.
    """

    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    ca: bytes | None = None
    server_name: str = ""
    """The name that services' certificates have, when it is not the address at which they are called."""


@dataclass(frozen=True)
class RpcSecurity:
    """What all processes of one installation share; the default is open, for loopback alone."""

    token: str = field(default="", repr=False)
    tls: Tls | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables that it was read from, for processes that shall have the same."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> RpcSecurity:
        """Read the settings and their files. Raises INVALID_ARGUMENT naming the variable."""
        given = {name: value for name, value in env.items() if name.startswith(PREFIX) and value}
        return cls(_token(given), _tls(given), given)

    @property
    def guarded(self) -> bool:
        """Whether a service with it keeps strangers out."""
        return bool(self.token) or (self.tls is not None and self.tls.ca is not None and self.tls.cert is not None)

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """What a server's port needs; None for plain text. Raises INVALID_ARGUMENT if there is no certificate."""
        tls = self.tls
        if tls is None:
            return None
        if tls.cert is None or tls.key is None:
            raise _refusal(f"{_CA} is set, but a service needs {_CERT} and {_KEY} too.")
        return grpc.ssl_server_credentials(
            [(tls.key, tls.cert)], root_certificates=tls.ca, require_client_auth=tls.ca is not None
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """What a caller's channel needs; None for plain text."""
        tls = self.tls
        return None if tls is None else grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)


def _token(given: Mapping[str, str]) -> str:
    if _TOKEN in given and _TOKEN_FILE in given:
        raise _refusal(f"{_TOKEN} and {_TOKEN_FILE}: set one of them.")
    setting = _TOKEN_FILE if _TOKEN_FILE in given else _TOKEN
    if setting not in given:
        return ""
    token = read_secret(Path(given[setting]), setting).strip() if setting == _TOKEN_FILE else given[setting]
    if len(token) < SHORTEST_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise _refusal(f"{setting}: a token is {SHORTEST_TOKEN} or more ASCII characters without spaces.")
    return token


def _tls(given: Mapping[str, str]) -> Tls | None:
    if (_CERT in given) is not (_KEY in given):
        raise _refusal(f"{_CERT} and {_KEY}: set both, or neither.")
    if not {_CERT, _CA} & given.keys():
        return None
    key = read_secret(Path(given[_KEY]), _KEY).encode() if _KEY in given else None
    cert, ca = (_pem(given, setting) if setting in given else None for setting in (_CERT, _CA))
    return Tls(cert, key, ca, given.get(_NAME, ""))


def _pem(given: Mapping[str, str], setting: str) -> bytes:
    try:
        text = Path(given[setting]).read_bytes()
    except OSError as error:
        raise _refusal(f"{setting}={given[setting]} can't be read: {error.strerror}.") from error
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise _refusal(f"{setting}={given[setting]} holds no certificate in PEM form.")
    return text


def _refusal(message: str) -> FineryError:
    return FineryError(Reason.INVALID_ARGUMENT, message)
