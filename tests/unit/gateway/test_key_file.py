"""Keys in a file: read again when it changes."""

import hashlib
import os
from pathlib import Path

import httpx
import pytest

from finery_shared.errors import FineryError
from tests.fakes.inference_service import FakeInference
from tests.unit.gateway.conftest import Start


def write(path: Path, *lines: str) -> Path:
    """As a rotation should: the new file takes the old one's place in one step."""
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.chmod(0o600)
    os.replace(new, path)
    return path


async def status(http: httpx.AsyncClient, key: str) -> int:
    return (await http.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code


async def test_rotation(start_gateway: Start, fake: FakeInference, tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "# ours", "", "old", f"sha256:{hashlib.sha256(b'hidden').hexdigest()}")
    url = await start_gateway(fake, api_keys_file=path, api_keys=("fixed",))
    async with httpx.AsyncClient(base_url=url) as http:
        assert [await status(http, k) for k in ("old", "hidden", "fixed", "new", "# ours")] == [200, 200, 200, 401, 401]
        write(path, "new")
        assert [await status(http, k) for k in ("old", "hidden", "fixed", "new")] == [401, 401, 200, 200]


async def test_a_file_that_goes_bad_leaves_the_keys(start_gateway: Start, fake: FakeInference, tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "old")
    async with httpx.AsyncClient(base_url=await start_gateway(fake, api_keys_file=path)) as http:
        path.unlink()
        assert await status(http, "old") == 200
        write(path, "sha256:123")
        assert await status(http, "old") == 200
        write(path, "new")
        assert [await status(http, k) for k in ("old", "new")] == [401, 200]


async def test_a_file_is_read_when_its_mode_is_right(start_gateway: Start, fake: FakeInference, tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "old")
    async with httpx.AsyncClient(base_url=await start_gateway(fake, api_keys_file=path)) as http:
        shown = tmp_path / "shown"
        shown.write_text("new\n")
        shown.chmod(0o644)
        os.replace(shown, path)
        assert [await status(http, k) for k in ("old", "new")] == [200, 401]
        path.chmod(0o600)
        assert [await status(http, k) for k in ("old", "new")] == [401, 200]


async def test_an_empty_file_lets_nobody_in(start_gateway: Start, fake: FakeInference, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=await start_gateway(fake, api_keys_file=write(tmp_path / "keys"))) as http:
        assert await status(http, "x") == 401


async def test_a_bad_file_is_refused_at_the_start(start_gateway: Start, fake: FakeInference, tmp_path: Path) -> None:
    for path, why in [
        (tmp_path / "absent", "No such file"),
        (write(tmp_path / "bad", "key", "sha256:123"), "line 2: expected 64"),
        (write(tmp_path / "said", "key # of whom"), "line 1: a key has no spaces"),
        (write(tmp_path / "shown", "key"), "has mode 0644"),
    ]:
        if path.name == "shown":
            path.chmod(0o644)
        with pytest.raises(FineryError, match=why) as caught:
            await start_gateway(fake, api_keys_file=path)
        assert f"FINERY_GATEWAY_API_KEYS_FILE={path}" in caught.value.message
