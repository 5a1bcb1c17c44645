"""A bad setting fails at the start and names its variable."""

import pytest

from finery_gateway.settings import Settings
from finery_shared.errors import FineryError


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINERY_INFERENCE", raising=False)
    settings = Settings.load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.inference == ("127.0.0.1:50053",)


def test_several_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_INFERENCE", "a:1, b:2,dns:///c:3,a:1,")
    assert Settings.load().inference == ("a:1", "b:2", "dns:///c:3")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINERY_INFERENCE", ","),
        ("FINERY_INFERENCE", "localhost"),
        ("FINERY_GATEWAY_CORS_ORIGINS", "https://app.example.org/path"),
        ("FINERY_GATEWAY_LISTEN", "8000"),
        ("FINERY_GATEWAY_LISTEN", "0.0.0.0:8000"),
        ("FINERY_GATEWAY_LISTEN", "[::]:8000"),
        ("FINERY_GATEWAY_LISTEN", "example.org:8000"),
        ("FINERY_GATEWAY_BODY_BYTES", "many"),
        ("FINERY_GATEWAY_REQUEST_SECONDS", "0"),
        ("FINERY_GATEWAY_SEND_SECONDS", "0"),
        ("FINERY_GATEWAY_API_KEYS", "sha256:123"),
        ("FINERY_GATEWAY_TLS_CERT", "/cert.pem"),
        ("FINERY_GATEWAY_TLS_KEY", "/key.pem"),
        ("FINERY_GATEWAY_METRICS_GUARDED", "1"),
        ("FINERY_GATEWAY_DRAIN_DELAY_SECONDS", "-1"),
    ],
)
def test_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(FineryError, match=name):
        Settings.load()


@pytest.mark.parametrize(("name", "value"), [("API_KEYS", "k"), ("API_KEYS_FILE", "/keys"), ("ALLOW_OPEN", "1")])
def test_open_to_others_on_purpose(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("FINERY_GATEWAY_LISTEN", "0.0.0.0:8000")
    monkeypatch.setenv(f"FINERY_GATEWAY_{name}", value)
    assert Settings.load().host == "0.0.0.0"


@pytest.mark.parametrize("listen", ["localhost:1", "127.0.0.2:1", "[::1]:1"])
def test_loopback(monkeypatch: pytest.MonkeyPatch, listen: str) -> None:
    monkeypatch.setenv("FINERY_GATEWAY_LISTEN", listen)
    assert Settings.load().port == 1


def test_a_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_GATEWAY_API_KEYS", "top-secret")
    assert "top-secret" not in repr(Settings.load())
