"""A deployment's life, without a process around it."""

import traceback
from datetime import UTC, datetime

import pytest

from finery_inference.deployments.adapters import Adapters
from finery_inference.deployments.model import AdapterRecord, DeploymentRecord, DeploymentSpec, State
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.deployments.runner import Runner
from finery_inference.deployments.watchdog import Watchdog
from finery_inference.engines.errors import engine_dead
from finery_inference.engines.protocol import EngineAdapter
from finery_inference.generation.loaded import LoadedModel
from finery_shared.errors import FineryError
from finery_shared.log import logger
from tests.unit.inference.harness import eventually

RECORD = DeploymentRecord(1, "deployments/1", DeploymentSpec(model_type="toy"), "m", "toy", datetime.now(UTC))


async def test_every_refused_request_gets_an_error_of_its_own() -> None:
    async def load(record: DeploymentRecord) -> LoadedModel:
        raise engine_dead("killed")

    async def unload(model: LoadedModel) -> None:
        raise AssertionError("there is none")

    async def load_adapter(record: AdapterRecord, base: DeploymentRecord, model: LoadedModel) -> EngineAdapter:
        raise AssertionError("there are none")

    adapters = Adapters((), load_adapter, lambda: None, logger("test"))
    policy, log = RestartPolicy(attempts=1), logger("test")
    runner = Runner(RECORD, load, unload, lambda: None, policy, Watchdog(), log, adapters)
    runner.start()
    await eventually(lambda: runner.deployment.state is State.FAILED)
    errors = []
    for _ in range(3):
        with pytest.raises(FineryError) as caught:
            runner.ready()
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors}) == 1
    assert {error.detail for error in errors} == {"killed"}
    await runner.stop()
