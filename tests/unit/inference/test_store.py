from pathlib import Path

import pytest

from finery_inference.deployments.model import DeploymentSpec
from finery_inference.deployments.store import DeploymentStore
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.schema import open_sqlite

SPEC = DeploymentSpec(model_type="smollm2-135m-instruct", max_model_len=512, engine_args={"max_num_seqs": 4})


@pytest.fixture
def store(tmp_path: Path) -> DeploymentStore:
    return DeploymentStore(open_sqlite(tmp_path / "deployments.db"))


def test_deployments_outlive_the_process(tmp_path: Path) -> None:
    first = DeploymentStore(open_sqlite(tmp_path / "deployments.db"))
    made = [first.create(SPEC, name, "smollm2-135m-instruct") for name in ("b", "a")]
    first.close()
    again = DeploymentStore(open_sqlite(tmp_path / "deployments.db"))
    assert again.all() == made
    assert again.all()[0].spec == SPEC
    assert again.all()[0].create_time.tzinfo is not None


def test_a_model_id_is_taken_once(store: DeploymentStore) -> None:
    record = store.create(SPEC, "m", "t")
    with pytest.raises(FineryError, match="--served_model_name") as refusal:
        store.create(SPEC, "m", "t")
    assert refusal.value.reason is Reason.MODEL_TAKEN
    assert refusal.value.metadata == {"model": "m", "deployment": record.name}
    with pytest.raises(FineryError):
        store.check_free("m")
    store.delete(record.name)
    store.check_free("m")
    assert store.create(SPEC, "m", "t").ordinal == record.ordinal + 1


def test_a_repeated_request_returns_its_deployment(store: DeploymentStore) -> None:
    record = store.create(SPEC, "m", "t", "id-1")
    assert store.create(SPEC, "m", "t", "id-1") == record
    assert store.find_request(SPEC, "id-1") == record
    assert store.find_request(SPEC, "id-2") is None
    assert len(store.all()) == 1


def test_a_request_id_for_something_else_is_refused(store: DeploymentStore) -> None:
    store.create(SPEC, "m", "t", "id-1")
    other = SPEC.model_copy(update={"max_model_len": 256})
    for use in (lambda: store.create(other, "n", "t", "id-1"), lambda: store.find_request(other, "id-1")):
        with pytest.raises(FineryError) as refusal:
            use()
        assert refusal.value.reason is Reason.REQUEST_ID_REUSED
    assert len(store.all()) == 1
