"""Resolution in its order: local path, store, caches, hubs; hubs are fakes with real directories."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import ModelSpec, hubs_from, resolve

from .conftest import ModelWriter


@dataclass
class FakeHub:
    """A hub whose cache and shelves are dictionaries of directories."""

    name: str = "Fake"
    cache: dict[str, Path] = field(default_factory=dict)
    shelves: dict[str, Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def id_of(self, spec: ModelSpec) -> str | None:
        return spec.hf_id

    def cached(self, repo_id: str) -> Path | None:
        return self.cache.get(repo_id)

    def download(self, repo_id: str) -> Path:
        self.asked.append(repo_id)
        if repo_id not in self.shelves:
            cause = f"{self.name} ({repo_id}): it can't be reached"
            raise FineryError(Reason.MODEL_UNREACHABLE, "unreachable", detail=f"{self.name} is down", cause=cause)
        return self.shelves[repo_id]


QWEN = "Qwen/Qwen1.5-0.5B-Chat"


def test_local_path_alone_is_enough(write_model: ModelWriter, tmp_path: Path) -> None:
    path = write_model("mine")
    resolved = resolve(None, str(path), store=tmp_path / "store")
    assert (resolved.path, resolved.spec.model_type) == (path, "mine")


def test_local_path_with_model_type(write_model: ModelWriter, tmp_path: Path) -> None:
    resolved = resolve("qwen1half-0_5b-chat", str(write_model("mine")), store=tmp_path / "store")
    assert resolved.spec.model_type == "qwen1half-0_5b-chat"
    assert resolved.path == tmp_path / "mine"


def test_relative_path(write_model: ModelWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model("mine")
    monkeypatch.chdir(tmp_path)
    assert resolve(None, "mine", store=tmp_path / "store").path == tmp_path / "mine"


def test_store_comes_before_cache_and_hub(write_model: ModelWriter, tmp_path: Path) -> None:
    stored = write_model("store/qwen1half-0_5b-chat")
    hub = FakeHub(cache={QWEN: write_model("cache")}, shelves={QWEN: write_model("shelf")})
    assert resolve("qwen1half-0_5b-chat", store=tmp_path / "store", hubs=[hub]).path == stored
    assert hub.asked == []


def test_half_a_model_in_the_store_is_passed_over(write_model: ModelWriter, tmp_path: Path) -> None:
    write_model("store/qwen1half-0_5b-chat", leave_out=("model.safetensors",))
    cached = write_model("cache")
    hub = FakeHub(cache={QWEN: cached})
    assert resolve("qwen1half-0_5b-chat", store=tmp_path / "store", hubs=[hub]).path == cached


def test_any_cache_comes_before_any_hub(write_model: ModelWriter, tmp_path: Path) -> None:
    first = FakeHub(shelves={QWEN: write_model("shelf")})
    second = FakeHub(cache={QWEN: write_model("cache")})
    assert resolve("qwen1half-0_5b-chat", store=tmp_path, hubs=[first, second]).path == tmp_path / "cache"
    assert first.asked == []


def test_second_hub_when_the_first_is_down(write_model: ModelWriter, tmp_path: Path) -> None:
    hubs = [FakeHub("A"), FakeHub("B", shelves={QWEN: write_model("shelf")})]
    assert resolve("qwen1half-0_5b-chat", store=tmp_path, hubs=hubs).path == tmp_path / "shelf"


def test_hub_id_of_a_registered_model(write_model: ModelWriter, tmp_path: Path) -> None:
    stored = write_model("store/qwen1half-0_5b-chat")
    resolved = resolve(None, QWEN, store=tmp_path / "store")
    assert (resolved.path, resolved.spec.model_type) == (stored, "qwen1half-0_5b-chat")


def test_hub_id_of_any_other_model(write_model: ModelWriter, tmp_path: Path) -> None:
    hub = FakeHub(shelves={"someone/Their-Chat": write_model("snapshot")})
    resolved = resolve(None, "someone/Their-Chat", store=tmp_path, hubs=[hub])
    assert (resolved.spec.model_type, resolved.spec.family) == ("Their-Chat", "qwen2")


@pytest.mark.parametrize(("model_type", "model_id_or_path"), [("mine", None), (None, "mine"), ("mine", "mine")])
def test_imported_model_by_its_own_name(
    write_model: ModelWriter, tmp_path: Path, model_type: str | None, model_id_or_path: str | None
) -> None:
    stored = write_model("store/mine")
    resolved = resolve(model_type, model_id_or_path, store=tmp_path / "store")
    assert (resolved.path, resolved.spec.model_type) == (stored, "mine")


def test_hub_id_under_a_name_of_the_users_own(write_model: ModelWriter, tmp_path: Path) -> None:
    hub = FakeHub(shelves={"someone/Their-Chat": write_model("snapshot")})
    assert resolve("mine", "someone/Their-Chat", store=tmp_path, hubs=[hub]).spec.model_type == "mine"


def test_unreachable_hubs(tmp_path: Path) -> None:
    with pytest.raises(FineryError) as caught:
        resolve("qwen1half-0_5b-chat", store=tmp_path, hubs=[FakeHub("A"), FakeHub("B")])
    error = caught.value
    assert error.reason is Reason.MODEL_UNREACHABLE
    assert f"A ({QWEN}): it can't be reached; B ({QWEN}): it can't be reached" in error.message
    assert "--model_id_or_path DIR" in error.message
    assert error.detail == "A is down; B is down"


@pytest.mark.parametrize(
    ("model_type", "model_id_or_path"), [("qwen1half-0_5b-chta", None), (None, "qwen1half-0_5b-chta")]
)
def test_unknown_name(tmp_path: Path, model_type: str | None, model_id_or_path: str | None) -> None:
    with pytest.raises(FineryError, match="Did you mean qwen1half-0_5b-chat") as caught:
        resolve(model_type, model_id_or_path, store=tmp_path)
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "../nowhere", "a/b/c"])
def test_missing_path(tmp_path: Path, path: str) -> None:
    with pytest.raises(FineryError) as caught:
        resolve(None, path, store=tmp_path)
    assert caught.value.reason is Reason.FILE_MISSING


def test_nothing_given(tmp_path: Path) -> None:
    with pytest.raises(FineryError, match="--model_type NAME or --model_id_or_path") as caught:
        resolve(store=tmp_path)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_hugging_face_cache_is_read_without_its_library(write_model: ModelWriter, tmp_path: Path) -> None:
    repo = "hf/hub/models--Qwen--Qwen1.5-0.5B-Chat"
    write_model(f"{repo}/snapshots/old")
    main = write_model(f"{repo}/snapshots/abc")
    (tmp_path / repo / "refs").mkdir()
    (tmp_path / repo / "refs" / "main").write_text("abc")
    hubs = hubs_from({"HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)})
    assert resolve("qwen1half-0_5b-chat", store=tmp_path / "store", hubs=hubs).path == main


@pytest.mark.parametrize("place", ["models/qwen/Qwen1___5-0___5B-Chat", "qwen/Qwen1.5-0.5B-Chat"])
def test_modelscope_cache(write_model: ModelWriter, tmp_path: Path, place: str) -> None:
    path = write_model(f"ms/{place}")
    hubs = hubs_from({"MODELSCOPE_CACHE": str(tmp_path / "ms"), "HOME": str(tmp_path)})
    assert resolve("qwen1half-0_5b-chat", store=tmp_path / "store", hubs=hubs).path == path


def test_use_hf_switch_puts_modelscope_first() -> None:
    assert [hub.name for hub in hubs_from({"USE_HF": "0"})] == ["ModelScope", "Hugging Face"]
    assert [hub.name for hub in hubs_from({})] == ["Hugging Face", "ModelScope"]
