from pathlib import Path

import pytest

from finery_inference.deployments.model import AdapterSpec, DeploymentSpec
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


ADAPTER = AdapterSpec(ckpt_dir="/output/checkpoint-9")


def test_adapters_belong_to_a_deployment_and_go_with_it(store: DeploymentStore) -> None:
    first, second = store.create(SPEC, "m", "t"), store.create(SPEC, "n", "t")
    made = [store.create_adapter(first.name, ADAPTER, name) for name in ("b", "a")]
    other = store.create_adapter(second.name, ADAPTER, "c")
    assert store.adapters(first.name) == made
    assert made[0].name.startswith(f"{first.name}/adapters/")
    assert (made[0].spec, made[0].create_time.tzinfo is not None) == (ADAPTER, True)
    store.delete_adapter(made[0].name)
    assert store.adapters(first.name) == made[1:]
    store.delete(first.name)
    assert store.adapters(first.name) == []
    assert store.adapters(second.name) == [other]
    with pytest.raises(FineryError) as refusal:
        store.create_adapter(first.name, ADAPTER, "d")
    assert refusal.value.reason is Reason.DEPLOYMENT_NOT_FOUND


def test_no_two_adapters_ever_have_the_same_number(store: DeploymentStore) -> None:
    base = store.create(SPEC, "m", "t")
    numbers = []
    for _ in range(3):
        made = store.create_adapter(base.name, ADAPTER, "a")
        numbers.append(made.ordinal)
        store.delete_adapter(made.name)
    assert len(set(numbers)) == 3
    assert min(numbers) > 0


def test_deployments_and_adapters_share_their_model_ids(store: DeploymentStore) -> None:
    base = store.create(SPEC, "m", "t")
    adapter = store.create_adapter(base.name, ADAPTER, "a")
    for take in (
        lambda: store.create(SPEC, "a", "t"),
        lambda: store.create_adapter(base.name, ADAPTER, "m"),
        lambda: store.create_adapter(base.name, ADAPTER, "a"),
        lambda: store.check_free("a"),
    ):
        with pytest.raises(FineryError, match="--served_model_name") as refusal:
            take()
        assert refusal.value.reason is Reason.MODEL_TAKEN
    store.delete_adapter(adapter.name)
    store.check_free("a")


def test_a_repeated_request_for_an_adapter_returns_the_one_it_made(store: DeploymentStore) -> None:
    base, request_id = store.create(SPEC, "m", "t"), "00000000-0000-0000-0000-000000000001"
    made = store.create_adapter(base.name, ADAPTER, "a", request_id)
    assert store.create_adapter(base.name, ADAPTER, "a", request_id) == made
    assert store.find_adapter_request(base.name, ADAPTER, request_id) == made
    with pytest.raises(FineryError) as refusal:
        store.find_adapter_request(base.name, AdapterSpec(ckpt_dir="/elsewhere"), request_id)
    assert refusal.value.reason is Reason.REQUEST_ID_REUSED
