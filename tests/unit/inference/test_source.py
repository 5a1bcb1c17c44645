"""Where a deployment's model comes from: checked when it is created, found again wherever the process is started."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from finery_inference.deployments.adapter_source import AdapterResolver
from finery_inference.deployments.model import AdapterSpec, DeploymentRecord, DeploymentSpec
from finery_inference.deployments.source import SourceResolver
from finery_inference.settings import Settings
from finery_shared.errors import FineryError, Reason
from tests.fakes.toy_model import write_model
from tests.unit.inference.adapter_directories import write_adapter
from tests.unit.inference.harness import add_manifest


def resolver(tmp_path: Path, allowed: Path) -> SourceResolver:
    settings = Settings(listen="127.0.0.1:0", home=tmp_path / "home", allowed_roots=(allowed,))
    return SourceResolver(tmp_path / "home" / "models", (), settings.check_path)


@pytest.fixture(params=["ckpt_dir", "model_id_or_path"])
def field(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def refused(ask: object, spec: DeploymentSpec) -> Reason:
    with pytest.raises(FineryError) as caught:
        ask(spec)  # type: ignore[operator]
    return caught.value.reason


def test_a_deployment_is_loaded_again_where_other_directories_are_allowed(tmp_path: Path, field: str) -> None:
    model = add_manifest(write_model(tmp_path / "one" / "toy"))
    spec = DeploymentSpec(**{field: str(model)})
    resolver(tmp_path, tmp_path / "one").look(spec)
    later = resolver(tmp_path, tmp_path / "two")
    assert later.resolve(spec).path == model
    assert refused(later.look, spec) is Reason.PATH_NOT_ALLOWED


def test_a_link_that_was_put_in_the_place_of_a_model_is_not_followed(tmp_path: Path, field: str) -> None:
    model = add_manifest(write_model(tmp_path / "one" / "toy"))
    spec = DeploymentSpec(**{field: str(model)})
    sources = resolver(tmp_path, tmp_path / "one")
    sources.look(spec)
    model.rename(tmp_path / "secret")
    model.symlink_to(tmp_path / "secret")
    assert refused(sources.resolve, spec) is Reason.PATH_NOT_ALLOWED


def test_an_adapter_is_loaded_again_where_other_directories_are_allowed(tmp_path: Path) -> None:
    model = write_model(tmp_path / "toy")
    asked = DeploymentSpec(model_id_or_path=str(model), enable_lora=True)
    base = DeploymentRecord(1, "deployments/1", asked, "toy", "toy-chat", datetime.now(UTC))
    path = write_adapter(tmp_path / "one" / "tuned")
    spec = AdapterSpec(ckpt_dir=str(path))
    accepting, later = (
        AdapterResolver(Settings(listen="127.0.0.1:0", home=tmp_path / "home", allowed_roots=(root,)).check_path)
        for root in (tmp_path / "one", tmp_path / "two")
    )
    accepting.look(spec, base, model)
    assert later.resolve(spec, base, model) == path
    with pytest.raises(FineryError) as caught:
        later.look(spec, base, model)
    assert caught.value.reason is Reason.PATH_NOT_ALLOWED
