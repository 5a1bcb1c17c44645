import re
from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from finery_shared.errors import FineryError, Reason
from finery_shared.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="FINERY_X_", frozen=True, extra="ignore")


def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_X_LISTEN", "nowhere")
    monkeypatch.setenv("FINERY_X_DRAIN_SECONDS", "-1")
    with pytest.raises(FineryError) as caught:
        Settings.load()
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert "FINERY_X_LISTEN" in caught.value.message
    assert "FINERY_X_DRAIN_SECONDS" in caught.value.message


@pytest.mark.parametrize("name", ["LISTEN", "METRICS_LISTEN"])
def test_a_port_that_there_is_not(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"FINERY_X_{name}", "127.0.0.1:65536")
    with pytest.raises(FineryError, match=f"FINERY_X_{name}: .*a port of at most 65535"):
        Settings.load()


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:1", "192.168.0.7:1", "example.org:1"])
def test_strangers_are_served_on_purpose_only(monkeypatch: pytest.MonkeyPatch, listen: str) -> None:
    monkeypatch.setenv("FINERY_X_LISTEN", listen)
    with pytest.raises(
        FineryError, match=f"FINERY_X_LISTEN={re.escape(listen)}.*Set FINERY_RPC_TOKEN_FILE, .*or FINERY_X_ALLOW_OPEN=1"
    ) as caught:
        Settings.load()
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    monkeypatch.setenv("FINERY_X_ALLOW_OPEN", "1")
    assert Settings.load().listen == listen


def test_a_token_lets_strangers_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_X_LISTEN", "0.0.0.0:50051")
    monkeypatch.setenv("FINERY_RPC_TOKEN", "a-token-of-the-tests")
    assert Settings.load().guarded
    assert "a-token" not in repr(Settings.load())


def test_metrics_are_told_to_strangers_on_purpose_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_X_METRICS_LISTEN", "0.0.0.0:9100")
    monkeypatch.setenv("FINERY_RPC_TOKEN", "a-token-of-the-tests")
    with pytest.raises(FineryError, match=r"FINERY_X_METRICS_LISTEN=0.0.0.0:9100.*Set FINERY_X_ALLOW_OPEN=1"):
        Settings.load()
    monkeypatch.setenv("FINERY_X_ALLOW_OPEN", "1")
    assert Settings.load().metrics_listen == "0.0.0.0:9100"


@pytest.mark.parametrize("listen", ["localhost:1", "127.0.0.2:1", "[::1]:1"])
def test_this_machine_is_served_without_asking(monkeypatch: pytest.MonkeyPatch, listen: str) -> None:
    monkeypatch.setenv("FINERY_X_LISTEN", listen)
    assert Settings.load().port == 1


def test_paths_are_held_to_the_allowed_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to("/etc")
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FINERY_X_ALLOWED_ROOTS", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    settings = Settings.load()
    assert settings.check_path(tmp_path / "a" / "x", "output_dir") == tmp_path / "a" / "x"
    assert settings.check_path(tmp_path / "home" / "models", "model") == tmp_path / "home" / "models"
    for path in ("/etc/passwd", tmp_path / "a" / ".." / "c", tmp_path / "a" / "link" / "x"):
        with pytest.raises(FineryError) as caught:
            settings.check_path(path, "output_dir")
        assert caught.value.reason is Reason.PATH_NOT_ALLOWED
        assert "FINERY_X_ALLOWED_ROOTS" in caught.value.message
    with pytest.raises(FineryError) as caught:
        settings.check_path("relative", "output_dir")
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_allowed_roots_may_be_a_json_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINERY_X_ALLOWED_ROOTS", f'["{tmp_path}/a:b", "c"]')
    settings = Settings.load()
    assert settings.allowed_roots == (tmp_path / "a:b", tmp_path / "c")
    assert settings.check_path(tmp_path / "a:b" / "x", "output_dir") == tmp_path / "a:b" / "x"
    monkeypatch.setenv("FINERY_X_ALLOWED_ROOTS", '["/a"')
    with pytest.raises(FineryError, match=r"FINERY_X_ALLOWED_ROOTS: .*a JSON list of them, got '\[\"/a\"'"):
        Settings.load()
