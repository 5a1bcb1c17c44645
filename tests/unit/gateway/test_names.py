"""Names of inference processes, and what happens when they come to mean others."""

import httpx

from finery_gateway.routing.names import Addresses
from finery_gateway.routing.router import Router, RouterTimes
from finery_shared.log import logger
from finery_shared.rpc import open_channel
from tests.fakes.inference_service import FakeInference
from tests.unit.gateway.conftest import Start
from tests.unit.gateway.waiting import until


class Changing(Addresses):
    """A name service that says what the test wants."""

    def __init__(self, now: list[str]) -> None:
        super().__init__(["dns:///inference:50053"])
        self.now = now

    async def look_up(self) -> list[str]:
        return self.now


async def test_fixed_addresses_stay_as_they_are() -> None:
    addresses = Addresses(["b:2", "a:1", "b:2"])
    assert not addresses.may_change
    assert await addresses.look_up() == ["b:2", "a:1"]


async def test_a_name_is_all_its_addresses() -> None:
    addresses = Addresses(["a:1", "dns:///localhost:50053"])
    assert addresses.may_change
    found = await addresses.look_up()
    assert found[0] == "a:1"
    assert "127.0.0.1:50053" in found[1:] or "[::1]:50053" in found[1:]


async def test_a_name_that_is_not_known_is_nobody() -> None:
    assert await Addresses(["dns:///nobody.invalid:1"]).look_up() == []


async def test_a_gateway_over_a_name(start_gateway: Start, fake: FakeInference) -> None:
    port = fake.address.rpartition(":")[2]
    url = await start_gateway(inference=(f"dns:///127.0.0.1:{port}",))
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/ready")).json()["models"] == ["toy"]


async def test_backends_come_and_go_with_the_name() -> None:
    one, two = FakeInference(["a"]), FakeInference(["b"])
    await one.start()
    await two.start()
    addresses = Changing([one.address])
    router = Router(addresses, open_channel, logger("test"), RouterTimes(look_up=0.05, request=0.5))

    def models() -> list[str]:
        return [s.model_id for s in router.table.models()]

    await router.start()
    assert models() == ["a"]
    addresses.now = [one.address, two.address]
    await until(lambda: models() == ["a", "b"])
    addresses.now = [two.address]
    await until(lambda: models() == ["b"])
    await router.stop()
    await one.stop()
    await two.stop()
