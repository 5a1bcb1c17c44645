"""Resolution in its order: local path, store, caches, hubs; hubs are fakes with real directories."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import CheckPath, ModelSpec, check_readable, find_model, hubs_from

from .conftest import ModelWriter, anywhere, resolve


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

    def holds(self, path: Path) -> bool:
        return path in self.cache.values()

    def check(self, repo_id: str) -> None:
        if repo_id not in self.shelves:
            cause = f"{self.name} ({repo_id}): it can't be reached"
            raise FineryError(Reason.MODEL_UNREACHABLE, "unreachable", detail=f"{self.name} is down", cause=cause)

    def download(self, repo_id: str) -> Path:
        self.asked.append(repo_id)
        self.check(repo_id)
        return self.shelves[repo_id]


def only_in(root: Path) -> CheckPath:
    def check(path: str | Path, field: str) -> Path:
        if not Path(path).resolve().is_relative_to(root):
            raise FineryError(Reason.PATH_NOT_ALLOWED, "not there", field=field)
        return Path(path).resolve()

    return check


QWEN = "Qwen/Qwen1.5-0.5B-Chat"


def test_local_path_alone_is_enough(write_model: ModelWriter, tmp_path: Path) -> None:
    path = write_model("mine")
    resolved = resolve(None, str(path), store=tmp_path / "store")
    assert (resolved.path, resolved.spec.model_type) == (path, "mine")


def test_local_path_with_model_type(write_model: ModelWriter, tmp_path: Path) -> None:
    resolved = resolve("qwen1half-0_5b-chat", str(write_model("mine")), store=tmp_path / "store")
    assert resolved.spec.model_type == "qwen1half-0_5b-chat"
    assert resolved.path == tmp_path / "mine"


@pytest.mark.parametrize("text", ["~/mine", "./mine", "../cwd/mine", "a/b/mine", "a/../mine", "..", "a/.."])
def test_a_relative_path_is_refused_whatever_lies_there(
    write_model: ModelWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    write_model("cwd/mine")
    write_model("cwd/a/b/mine")
    write_model(".")
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "cwd"))
    with pytest.raises(FineryError, match="neither an absolute path") as caught:
        resolve(None, text, store=tmp_path / "store")
    assert (caught.value.reason, caught.value.metadata) == (Reason.INVALID_ARGUMENT, {"field": "model_id_or_path"})


def test_a_name_is_never_a_directory(write_model: ModelWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model("mine")
    write_model("owner/mine")
    monkeypatch.chdir(tmp_path)
    for text, reason in (("mine", Reason.MODEL_NOT_FOUND), ("owner/mine", Reason.MODEL_UNREACHABLE)):
        with pytest.raises(FineryError) as caught:
            resolve(None, text, store=tmp_path / "store")
        assert caught.value.reason is reason


@pytest.mark.parametrize("model_type", ["/{}/mine", "../mine", "a/../../mine", "~/mine"])
def test_a_model_type_is_no_way_out_of_the_store(write_model: ModelWriter, tmp_path: Path, model_type: str) -> None:
    write_model("mine")
    with pytest.raises(FineryError, match="--model_id_or_path") as caught:
        resolve(model_type.format(str(tmp_path).strip("/")), store=tmp_path / "store")
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_directories_are_held_to_what_is_allowed(write_model: ModelWriter, tmp_path: Path) -> None:
    allowed = only_in(tmp_path / "allowed")
    inside, outside = write_model("allowed/mine"), write_model("elsewhere/mine")
    (tmp_path / "allowed" / "link").symlink_to(outside)
    assert resolve(None, str(inside), store=tmp_path / "store", check_path=allowed).path == inside
    for path in (outside, tmp_path / "allowed" / ".." / "elsewhere" / "mine", tmp_path / "allowed" / "link"):
        with pytest.raises(FineryError) as caught:
            resolve(None, str(path), store=tmp_path / "store", check_path=allowed)
        assert caught.value.reason is Reason.PATH_NOT_ALLOWED


def test_the_store_and_the_caches_may_be_named_by_path(write_model: ModelWriter, tmp_path: Path) -> None:
    allowed, hub = only_in(tmp_path / "allowed"), FakeHub(cache={QWEN: write_model("cache/snapshot")})
    stored = write_model("store/mine")
    for path in (stored, tmp_path / "cache" / "snapshot"):
        assert resolve(None, str(path), store=tmp_path / "store", hubs=[hub], check_path=allowed).path == path
    with pytest.raises(FineryError):
        check_readable(tmp_path / "cache", "f", store=tmp_path / "store", hubs=[hub], check_path=allowed)


def test_what_lies_in_the_hubs_caches(write_model: ModelWriter, tmp_path: Path) -> None:
    hubs = hubs_from({"HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms"), "HOME": "/nowhere"})
    snapshot = write_model("hf/hub/models--Qwen--Qwen1.5-0.5B-Chat/snapshots/abc")
    scoped = write_model("ms/models/qwen/Qwen1___5-0___5B-Chat")
    assert [hub.holds(snapshot) for hub in hubs] == [True, False]
    assert [hub.holds(scoped) for hub in hubs] == [False, True]
    assert not any(hub.holds(tmp_path / "hf" / "hub" / ".." / "token") for hub in hubs)


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


def test_a_model_is_looked_for_without_asking_a_hub(write_model: ModelWriter, tmp_path: Path) -> None:
    hub = FakeHub(shelves={QWEN: write_model("shelf"), "someone/Their-Chat": write_model("other")})
    places = {"store": tmp_path / "store", "hubs": [hub], "check_path": anywhere}
    found = find_model(None, QWEN, **places)  # type: ignore[arg-type]
    assert (found.model_type, found.path) == ("qwen1half-0_5b-chat", None)
    assert found.spec is not None
    other = find_model("mine", "someone/Their-Chat", **places)  # type: ignore[arg-type]
    assert (other.model_type, other.path, other.spec) == ("mine", None, None)
    assert hub.asked == []
    assert (found.fetched().path, other.fetched().path) == (tmp_path / "shelf", tmp_path / "other")
    assert hub.asked == [QWEN, "someone/Their-Chat"]


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


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FineryError) as caught:
        resolve(None, "/nowhere/model", store=tmp_path)
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
