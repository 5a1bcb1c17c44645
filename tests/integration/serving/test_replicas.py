"""Several inference processes behind one gateway, which come, hang, drain and die."""

import asyncio
import socket

from tests.integration.serving.asking import CHAT, body, client, error_code, stream, tokens, until
from tests.integration.serving.serving import Replica, Serving

RATE = 50.0
LEFT_OUT_WITHIN = 2.5
"""Seconds: two, and something for a busy machine."""


def made(replica: Replica, model: str = "toy") -> int:
    return int(replica.stats(model).generated_tokens)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_each_deployment_of_a_process_answers_its_own(serving: Serving) -> None:
    replica = serving.replica("toy", "other")
    async with client(serving.gateway(replica)) as http:
        asked = [("toy", 5), ("other", 7)] * 10
        answers = await asyncio.gather(*(http.post(CHAT, json=body(model=m, tokens=n)) for m, n in asked))
    told = [(a.json()["model"], a.json()["usage"]["completion_tokens"]) for a in answers]
    assert told == asked
    assert (made(replica, "toy"), made(replica, "other")) == (50, 70)


async def test_least_work_in_flight(serving: Serving) -> None:
    replicas = [serving.replica("toy", rate=RATE) for _ in range(2)]
    async with client(serving.gateway(*replicas)) as http:
        asking = [asyncio.create_task(http.post(CHAT, json=body(tokens=150))) for _ in range(12)]
        await until(lambda: sum(r.running() for r in replicas) == 12)
        assert [await asyncio.to_thread(r.running) for r in replicas] == [6, 6]
        assert {(await a).status_code for a in asking} == {200}


async def test_hung_replica_is_left_out(serving: Serving) -> None:
    hung, healthy = serving.replica("toy"), serving.replica("toy")
    # Half of what it takes until the hung one counts as dead: who is sent there in the meantime gets no answer.
    async with client(serving.gateway(hung, healthy), seconds=5) as http:
        hung.process.freeze()
        await asyncio.sleep(LEFT_OUT_WITHIN)
        answers = [await http.post(CHAT, json=body(tokens=10)) for _ in range(10)]
        assert {a.status_code for a in answers} == {200}
        assert await asyncio.to_thread(made, healthy) == 100
        hung.process.thaw()
        await until(lambda: made(hung) == 0)
        # It is heard again, and gets its share.
        async with asyncio.timeout(20):
            while await asyncio.to_thread(made, hung) == 0:
                await http.post(CHAT, json=body(tokens=10))


async def test_draining_replica_is_left_out_and_ends_its_streams_well(serving: Serving) -> None:
    first, second = serving.replica("toy", rate=RATE), serving.replica("toy", rate=RATE)
    async with client(serving.gateway(first, second)) as http:
        streams = [asyncio.create_task(stream(http, tokens=100)) for _ in range(4)]
        await until(lambda: first.running() == second.running() == 2)
        first.process.terminate()
        await asyncio.sleep(0.5)
        before = await asyncio.to_thread(made, second)
        answers = await asyncio.gather(*(http.post(CHAT, json=body(tokens=20)) for _ in range(6)))
        assert {a.status_code for a in answers} == {200}
        assert await asyncio.to_thread(made, second) - before >= 6 * 20
        ends = [await s for s in streams]
    assert [(e[-1], tokens(e)) for e in ends] == [("[DONE]", 100)] * 4
    assert await asyncio.to_thread(first.process.exit_status) == 0


async def test_who_has_seen_nothing_is_answered_by_another(serving: Serving) -> None:
    slow = serving.replica("toy", FINERY_INFERENCE_FAKE_FIRST_TOKEN_SECONDS="60")
    async with client(serving.gateway(slow, quick := serving.replica("toy"))) as http:
        waiting = [
            asyncio.create_task(work)
            for work in [*(stream(http) for _ in range(4)), *(http.post(CHAT, json=body()) for _ in range(4))]
        ]
        # The quick one has ended its share; the slow one keeps what it got.
        await until(lambda: slow.running() >= 1 and quick.running() == 0)
        slow.process.kill()
        ends = await asyncio.wait_for(asyncio.gather(*waiting), 20)
    assert [(e[-1], tokens(e)) for e in ends[:4]] == [("[DONE]", 20)] * 4
    assert [e.status_code for e in ends[4:]] == [200] * 4


async def test_killed_replica_takes_its_own_streams_along_and_comes_back(serving: Serving) -> None:
    replicas = [serving.replica("toy", rate=RATE) for _ in range(2)]
    address = replicas[0].address
    async with client(serving.gateway(*replicas)) as http:
        streams = [asyncio.create_task(stream(http, tokens=150)) for _ in range(12)]
        await until(lambda: all(r.running() == 6 for r in replicas))
        await asyncio.sleep(0.2)
        replicas[0].process.kill()
        ends = [await s for s in streams]
        broken = [e for e in ends if e[-1] != "[DONE]"]
        assert len(broken) == 6
        assert {error_code(e[-1]) for e in broken} == {"service_unavailable"}
        assert all(0 < tokens(e) < 150 and "[DONE]" not in e for e in broken)
        assert {tokens(e) for e in ends if e[-1] == "[DONE]"} == {150}
        # The next process of the same name loads what was deployed, and is found at the same address.
        again = serving.replica(FINERY_INFERENCE_INSTANCE="0", FINERY_INFERENCE_LISTEN=address)
        await until(lambda: again.running() == 0)
        async with asyncio.timeout(20):
            while await asyncio.to_thread(made, again) == 0:
                assert (await http.post(CHAT, json=body())).status_code == 200


async def test_replicas_that_start_later_need_no_restart(serving: Serving) -> None:
    """One at a second address, and one behind a name."""
    there, port, named = serving.replica("toy"), free_port(), free_port()
    backends = f"{there.address},127.0.0.1:{port},dns:///localhost:{named}"
    gateway = serving.gateway(FINERY_INFERENCE=backends, FINERY_GATEWAY_LOOK_UP_SECONDS="1")
    async with client(gateway) as http:
        assert (await http.post(CHAT, json=body())).status_code == 200
        for address in (f"127.0.0.1:{port}", f"127.0.0.1:{named}"):
            late = await asyncio.to_thread(serving.replica, "toy", FINERY_INFERENCE_LISTEN=address)
            async with asyncio.timeout(30):
                while await asyncio.to_thread(made, late) == 0:
                    assert (await http.post(CHAT, json=body())).status_code == 200
