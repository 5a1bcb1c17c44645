"""Is a hub there? Asked before its library is, because those wait and retry for minutes where nothing answers."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

TIMEOUT_S = 5.0
"""How long a hub may take to say anything at all."""


def unreachable_because(url: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why nothing answers at a URL, None if something does; any HTTP status is an answer. Proxy settings are used."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:  # OSError: name, connection, TLS, time; ValueError: no URL at all
        return f"{url}: {error}"


def missing(package: str) -> str:
    """That a hub's library is not in this process's environment, and how it gets there."""
    return f"the {package} package is not installed (uv pip install --python {sys.executable} {package})"


def hugging_face_endpoint(environment: Mapping[str, str]) -> str:
    """The hub's address: ``$HF_ENDPOINT`` (a mirror), else huggingface.co."""
    return environment.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def modelscope_endpoint(environment: Mapping[str, str]) -> str:
    """The hub's address: ``$MODELSCOPE_DOMAIN``, else www.modelscope.cn."""
    return f"https://{environment.get('MODELSCOPE_DOMAIN') or 'www.modelscope.cn'}"
