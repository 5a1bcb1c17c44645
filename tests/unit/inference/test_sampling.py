import dataclasses
from pathlib import Path
from typing import Any

import pytest

from finery_inference.engines.fake import FakeEngine, FakePace
from finery_inference.engines.protocol import EngineConfig, Sampling
from finery_inference.generation.loaded import LoadedModel, front
from finery_inference.generation.request import SamplingRequest
from finery_inference.generation.sampling import check, fill_in
from finery_shared.errors import FineryError
from tests.unit.inference.harness import write_model


async def loaded(path: Path, **generation: object) -> LoadedModel:
    write_model(path, **generation)
    return front(FakeEngine(EngineConfig(path, max_model_len=100), FakePace()), path)


async def test_the_model_fills_in_what_the_caller_leaves_out(tmp_path: Path) -> None:
    defaults = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1, "do_sample": True}
    model = await loaded(tmp_path / "m", **defaults)
    got = fill_in(SamplingRequest(), model, 50)
    assert got == Sampling(50, 0.7, 0.8, 20, repetition_penalty=1.1, stop_token_ids=(258,))
    said = SamplingRequest(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=3)
    assert fill_in(said, model, 50) == Sampling(50, 0.0, seed=3, stop_token_ids=(258,))


async def test_a_model_without_defaults_gets_those_of_vllm(tmp_path: Path) -> None:
    assert fill_in(SamplingRequest(), await loaded(tmp_path / "m"), 9) == Sampling(9, stop_token_ids=(258,))


async def test_what_ends_a_turn_stops(tmp_path: Path) -> None:
    model = await loaded(tmp_path / "m", eos_token_id=[256, 258])
    assert model.stop_token_ids == (258, 256)
    assert fill_in(SamplingRequest(stop_token_ids=(65,)), model, 9).stop_token_ids == (65, 258, 256)
    endless = fill_in(SamplingRequest(stop_token_ids=(65,), ignore_eos=True), model, 9)
    assert (endless.stop_token_ids, endless.ignore_eos) == ((65,), True)


async def test_a_broken_generation_config_is_no_obstacle(tmp_path: Path) -> None:
    model = await loaded(tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text("{")
    again = front(model.engine, tmp_path / "m")
    assert dataclasses.asdict(again)["defaults"] == {}


@pytest.mark.parametrize(
    "given", [{"repetition_penalty": 1e-40}, {"repetition_penalty": float("inf")}, {"logprobs": 21}], ids=str
)
def test_what_is_out_of_its_range_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(FineryError, match=next(iter(given))):
        check(SamplingRequest(**given))
