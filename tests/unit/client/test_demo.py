"""Parts of the demo; its whole runs in tests/e2e."""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from finery_client.cli.screen import Screen
from finery_client.cli.signals import Stopped
from finery_client.demo import base_model
from finery_client.demo.demo import isolated, scratch_home
from finery_client.demo.memory import MemoryMeter, memory
from finery_client.demo.stages import Stages, figure_lines
from finery_client.local import Machine
from finery_shared.errors import FineryError, Reason


def test_memory_counts_the_given_processes():
    block = 200 * 2**20
    code = f"import sys; block = bytearray(b'x') * {block}; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert block <= memory(child.pid) <= block + 50 * 2**20
        with MemoryMeter(lambda: [child.pid]) as meter:
            meter.sample()
        child.communicate()
    assert block <= meter.peak_bytes <= block + 600 * 2**20
    assert memory(child.pid) == 0


def test_figures_that_were_not_measured_are_dashes():
    names = {"train_loss": "loss {:.3f}", "identity_name": "name {:.0%}"}
    assert figure_lines({"train_loss": 0.12345}, names) == ["loss 0.123", "name –"]


def test_the_table_shows_stages_even_of_a_failure(capsys: pytest.CaptureFixture[str]):
    stages = Stages(Screen())
    with stages.stage("first") as stage:
        stage.artifact = "output/x"
        stage.figures = ["loss 1"]
        time.sleep(0.01)
    with pytest.raises(RuntimeError), stages.stage("second"):
        raise RuntimeError
    stages.show(3 * 2**30)
    shown = capsys.readouterr().out
    assert "output/x" in shown
    assert "second" in shown
    assert "peak memory of all processes 3.00 GiB" in shown


def test_the_demo_shares_nothing_but_the_model_store(machine: Callable[..., Machine], tmp_path: Path):
    real = machine({"FINERY_TRAINER": "10.0.0.1:1", "FINERY_GATEWAY_LISTEN": "127.0.0.1:8000", "OTHER": "kept"})
    own = isolated(real, tmp_path / "state")
    assert own.home.root == tmp_path / "state"
    assert own.env["FINERY_MODEL_STORE"] == str(real.home.models)
    assert own.env["OTHER"] == "kept"
    assert own.env["FINERY_VENVS"] == real.env["FINERY_VENVS"]
    assert "FINERY_TRAINER" not in own.env
    assert "FINERY_GATEWAY_LISTEN" not in own.env


@pytest.mark.parametrize("failure", [openai.OpenAIError("no"), FineryError(Reason.GATE_FAILED, "no"), OSError()])
def test_the_logs_of_a_failed_demo_are_kept_and_named(capsys: pytest.CaptureFixture[str], failure: Exception):
    with pytest.raises(type(failure)), scratch_home(Screen()) as state:
        (state / "service.log").touch()
        raise failure
    assert (state / "service.log").exists()
    shutil.rmtree(state)
    assert str(state) in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("end", [KeyboardInterrupt, Stopped, None])
def test_nothing_is_left_of_a_demo_that_ended_well_or_was_stopped(end: type[BaseException] | None):
    with contextlib.suppress(KeyboardInterrupt, Stopped), scratch_home(Screen()) as state:
        (state / "service.log").touch()
        if end is not None:
            raise end
    assert not state.exists()


def test_missing_weights_say_where_they_come_from(machine: Callable[..., Machine], tmp_path: Path):
    with pytest.raises(FineryError, match="make demo") as refused:
        base_model.ensure(machine(), tmp_path / "none.gguf", Screen())
    assert refused.value.reason is Reason.FILE_MISSING
