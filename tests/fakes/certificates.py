"""Certificates of an authority that nobody else trusts."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Identity:
    """PEM files."""

    cert: Path
    key: Path
    ca: Path

    def rpc(self) -> dict[str, str]:
        """The settings of a process that uses it for gRPC."""
        return {
            "FINERY_RPC_TLS_CERT": str(self.cert),
            "FINERY_RPC_TLS_KEY": str(self.key),
            "FINERY_RPC_TLS_CA": str(self.ca),
        }


class Authority:
    """Issues certificates below a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self._ca = trustme.CA()
        self.ca = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, *names: str) -> Identity:
        issued = self._ca.issue_cert(*names)
        cert, key = (self._directory / f"{names[0]}.{kind}.pem" for kind in ("cert", "key"))
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        key.chmod(0o600)
        return Identity(cert, key, self.ca)
