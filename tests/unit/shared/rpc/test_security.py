"""FINERY_RPC_*: what is read, and what is refused."""

from pathlib import Path

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.rpc import RpcSecurity
from tests.fakes.certificates import Authority, Identity

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Authority(tmp_path / "ca").issue("127.0.0.1")


def secret(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_nothing_is_open() -> None:
    security = RpcSecurity.from_env({"FINERY_HOME": "/x", "FINERY_RPC_TOKEN": ""})
    assert not security.guarded
    assert security.server_credentials() is None


def test_what_guards(identity: Identity, tmp_path: Path) -> None:
    assert RpcSecurity.from_env({"FINERY_RPC_TOKEN": TOKEN}).guarded
    path = secret(tmp_path / "token", f"{TOKEN}\n", 0o640)
    read = RpcSecurity.from_env({"FINERY_RPC_TOKEN_FILE": path})
    assert (read.token, read.guarded) == (TOKEN, True)
    assert RpcSecurity.from_env(identity.rpc()).guarded
    # A certificate alone hides what is said, and lets everybody in.
    own = {name: value for name, value in identity.rpc().items() if not name.endswith("CA")}
    assert not RpcSecurity.from_env(own).guarded


def test_it_is_handed_on_and_not_shown(identity: Identity) -> None:
    settings = identity.rpc() | {"FINERY_RPC_TOKEN": TOKEN}
    security = RpcSecurity.from_env(settings | {"PATH": "/bin"})
    assert security.environment == settings
    assert TOKEN not in repr(security)
    assert "PRIVATE" not in repr(security)


@pytest.mark.parametrize("token", ["short", "with a space in it", "pässword-of-the-tests"])
def test_a_weak_token_is_refused(token: str, tmp_path: Path) -> None:
    for settings in (
        {"FINERY_RPC_TOKEN": token},
        {"FINERY_RPC_TOKEN_FILE": secret(tmp_path / "token", token)},
    ):
        [name] = settings
        with pytest.raises(FineryError, match=f"{name}: a token is 16 or more") as caught:
            RpcSecurity.from_env(settings)
        assert token not in caught.value.message


def test_bad_files_are_named(identity: Identity, tmp_path: Path) -> None:
    shown = secret(tmp_path / "shown", TOKEN, 0o644)
    pem = identity.rpc()
    absent = str(tmp_path / "absent")
    for settings, why in [
        ({"FINERY_RPC_TOKEN_FILE": absent}, f"FINERY_RPC_TOKEN_FILE={absent} can't be read"),
        ({"FINERY_RPC_TOKEN_FILE": shown}, f"FINERY_RPC_TOKEN_FILE={shown} has mode 0644.*chmod 600"),
        ({"FINERY_RPC_TOKEN_FILE": shown, "FINERY_RPC_TOKEN": TOKEN}, "set one of them"),
        (pem | {"FINERY_RPC_TLS_KEY": ""}, "FINERY_RPC_TLS_CERT and FINERY_RPC_TLS_KEY: set both"),
        (pem | {"FINERY_RPC_TLS_CA": absent}, f"FINERY_RPC_TLS_CA={absent} can't be read"),
        (pem | {"FINERY_RPC_TLS_CERT": shown}, f"FINERY_RPC_TLS_CERT={shown} holds no certificate"),
    ]:
        with pytest.raises(FineryError, match=why) as caught:
            RpcSecurity.from_env(settings)
        assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_a_service_needs_a_certificate_beside_the_authority(identity: Identity) -> None:
    caller = RpcSecurity.from_env({"FINERY_RPC_TLS_CA": str(identity.ca)})
    assert caller.channel_credentials() is not None
    with pytest.raises(FineryError, match="a service needs FINERY_RPC_TLS_CERT and FINERY_RPC_TLS_KEY too"):
        caller.server_credentials()
