"""The certificate that the gateway serves HTTPS with, checked before it serves."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from finery_shared.errors import FineryError, Reason


@dataclass(frozen=True)
class Certificate:
    """PEM files of a certificate chain and its key."""

    chain: Path
    key: Path

    def check(self) -> None:
        """Raise INVALID_ARGUMENT, naming the setting, if HTTPS can't be served with it."""
        for setting, path in (("CERT", self.chain), ("KEY", self.key)):
            try:
                path.read_bytes()
            except OSError as error:
                message = f"FINERY_GATEWAY_TLS_{setting}={path} can't be read: {error.strerror}."
                raise FineryError(Reason.INVALID_ARGUMENT, message) from error
        try:
            # Without a password here, the ssl module would ask the terminal for that of an encrypted key.
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.chain, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            why = getattr(error, "reason", None) or str(error)
            message = (
                f"FINERY_GATEWAY_TLS_CERT={self.chain} and FINERY_GATEWAY_TLS_KEY={self.key} are not a certificate and "
                f"its unencrypted key, both PEM ({why})."
            )
            raise FineryError(Reason.INVALID_ARGUMENT, message) from error
