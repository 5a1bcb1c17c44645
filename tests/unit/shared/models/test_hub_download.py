"""Real downloads by the hubs' own libraries, from hubs on a loopback port. They run where these are installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import ModelScopeHub, hubs_from
from tests.fakes import ms_hub
from tests.fakes.hf_hub import serve_hub

from .conftest import ModelWriter, resolve

pytest.importorskip("huggingface_hub", reason="runs in the services' environments")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # huggingface_hub's own


@pytest.fixture
def endpoint(write_model: ModelWriter) -> Iterator[str]:
    path = write_model("shelf")
    files = {file.name: file.read_bytes() or b"weights" for file in path.iterdir()}
    files["pytorch_model.bin"] = b"never fetched"
    repositories = {"models/Qwen/Qwen1.5-0.5B-Chat": files, "models/someone/Their-Chat": files}
    with serve_hub(repositories) as address:
        yield address


def environment(tmp_path: Path, endpoint: str) -> dict[str, str]:
    return {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": endpoint, "MODELSCOPE_CACHE": str(tmp_path / "ms")}


def test_a_registered_model_is_fetched_once(tmp_path: Path, endpoint: str) -> None:
    hubs = hubs_from(environment(tmp_path, endpoint))
    fetched = resolve("qwen1half-0_5b-chat", store=tmp_path / "store", hubs=hubs)
    names = {file.name for file in fetched.path.iterdir()}
    assert names == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert fetched.path.is_relative_to(tmp_path / "cache")
    assert fetched.spec.model_type == "qwen1half-0_5b-chat"

    nowhere = hubs_from(environment(tmp_path, "http://127.0.0.1:9"))
    assert resolve("qwen1half-0_5b-chat", store=tmp_path / "store", hubs=nowhere).path == fetched.path


def test_any_hub_id_is_enough(tmp_path: Path, endpoint: str) -> None:
    hubs = hubs_from(environment(tmp_path, endpoint))[:1]
    resolved = resolve(None, "someone/Their-Chat", store=tmp_path / "store", hubs=hubs)
    assert (resolved.spec.model_type, resolved.spec.template) == ("Their-Chat", "chatml")


def test_an_id_that_the_hub_does_not_have(tmp_path: Path, endpoint: str) -> None:
    hubs = hubs_from(environment(tmp_path, endpoint))[:1]
    with pytest.raises(FineryError, match="it did not give these files") as caught:
        resolve(None, "someone/nothing", store=tmp_path / "store", hubs=hubs)
    assert caught.value.reason is Reason.MODEL_UNREACHABLE
    assert "--model_id_or_path DIR" in caught.value.message


def test_modelscope_is_asked_once_too(write_model: ModelWriter, tmp_path: Path) -> None:
    pytest.importorskip("modelscope_hub", reason="runs in the services' environments")
    files = {file.name: file.read_bytes() or b"weights" for file in write_model("shelf").iterdir()}
    files["pytorch_model.bin"] = b"never fetched"
    with ms_hub.serve_hub({"models/qwen/Qwen1.5-0.5B-Chat": files}) as endpoint:
        hub = ModelScopeHub(tmp_path / "ms", endpoint)
        fetched = resolve("qwen1half-0_5b-chat", store=tmp_path / "store", hubs=[hub])
        with pytest.raises(FineryError, match="it did not give these files"):
            hub.download("someone/nothing")
    names = {file.name for file in fetched.path.iterdir()}
    assert names == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert hub.holds(fetched.path)

    nowhere = ModelScopeHub(tmp_path / "ms", "http://127.0.0.1:9")
    assert resolve("qwen1half-0_5b-chat", store=tmp_path / "store", hubs=[nowhere]).path == fetched.path
