"""The finery command as a process: exit status, streams, signals."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from finery_shared.home import Home, announce, announced
from tests.fakes.scripted_trainer import ScriptedTrainer, serve
from tests.unit.client.conftest import FREE_PORTS, Finery, finish, read_until, wait_for, write_interpreter

SFT = ("sft", "--model_type", "smollm2-135m-instruct", "--dataset", "self-cognition")


def test_sft_with_a_private_trainer(finery: Finery):
    done = finery(*SFT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "best_model_checkpoint: /out/best one/checkpoint-4"
    assert "Starting the trainer for this command" in done.stderr
    assert "training  5/5" in done.stderr
    assert "loss 0.4" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout, "no terminal, no colours"


def test_sft_carries_paths_and_devices(finery: Finery, tmp_path: Path):
    trainer = ScriptedTrainer()
    server, address = serve(trainer)
    (tmp_path / "rows.jsonl").touch()
    words = ("sft", "--model_type", "x", "--dataset", "rows.jsonl#5", "--output_dir", "out")
    done = finery(*words, FINERY_TRAINER=address, CUDA_VISIBLE_DEVICES="2,3", NPROC_PER_NODE="2")
    server.stop(0)
    assert done.returncode == 0, done.stderr
    (job,) = trainer.jobs.values()
    assert list(job.spec.datasets) == [f"{tmp_path}/rows.jsonl#5"]
    assert job.spec.output_dir == f"{tmp_path}/out"
    assert (job.spec.devices.cuda_visible_devices, job.spec.devices.nproc_per_node) == ("2,3", 2)


def test_ctrl_c_leaves_a_running_service_its_job(finery: Finery):
    trainer = ScriptedTrainer(step_seconds=0.5)
    server, address = serve(trainer)
    with finery.start(*SFT, FINERY_TRAINER=address) as process:
        read_until(process, "  training")
        process.send_signal(signal.SIGINT)
        _, err = finish(process)
    assert process.returncode == 130
    assert "finery jobs watch trainingJobs/1" in err
    assert "finery jobs cancel trainingJobs/1" in err
    assert trainer.cancelled == set()
    watched = finery("jobs", "watch", "trainingJobs/1", FINERY_TRAINER=address)
    server.stop(0)
    assert watched.returncode == 0
    assert watched.stdout == "best_model_checkpoint: /out/best one/checkpoint-4\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_with_a_private_service(finery: Finery, number: signal.Signals):
    with finery.start(*SFT, SCRIPTED_SECONDS="0.5") as process:
        read_until(process, "  training")
        process.send_signal(number)
        _, err = finish(process)
    assert process.returncode == 130
    assert "Cancelling trainingJobs/1" in err
    assert "A checkpoint was complete: /out/checkpoint-" in err
    assert "with --resume_from_checkpoint /out/checkpoint-" in err
    assert err.count("training  1/5") <= 1, "what was shown is not shown again"
    assert "Traceback" not in err


def test_killing_the_command_leaves_nothing(finery: Finery):
    with finery.start(*SFT, SCRIPTED_SECONDS="30") as process:
        read_until(process, "running")
        assert len(finery.processes()) >= 2
        process.kill()
    wait_for(lambda: not finery.processes())


def test_a_private_trainer_that_is_killed_is_a_clear_error(finery: Finery, home: Home):
    with finery.start(*SFT, SCRIPTED_SECONDS="30") as process:
        read_until(process, "running")
        (path,) = (home.root / "run").glob("private-*/trainer.json")
        entry = announced(path)
        assert entry is not None
        begun = time.monotonic()
        os.kill(entry.pid, signal.SIGKILL)
        _, err = finish(process)
    assert process.returncode == 1
    assert "error: The trainer was ended by SIGKILL" in err
    assert "Start it again." in err
    assert time.monotonic() - begun < 10


def test_jobs_list_show_and_cancel(finery: Finery):
    trainer = ScriptedTrainer(step_seconds=3.0)
    server, address = serve(trainer)
    with finery.start(*SFT, FINERY_TRAINER=address) as process:
        read_until(process, "  training")
        process.send_signal(signal.SIGINT)
        finish(process)
    shown = finery("jobs", "show", "trainingJobs/1", FINERY_TRAINER=address)
    assert json.loads(shown.stdout)["spec"]["model"]["model_type"] == "smollm2-135m-instruct"
    cancelled = finery("jobs", "cancel", "trainingJobs/1", FINERY_TRAINER=address)
    assert cancelled.stdout == "trainingJobs/1: CANCELLED\n"
    missing = finery("jobs", "show", "trainingJobs/9", FINERY_TRAINER=address)
    server.stop(0)
    assert missing.returncode == 1
    assert missing.stderr == "error: There is no job trainingJobs/9.\n"


def test_a_service_that_is_started_to_look_at_jobs_takes_none_from_the_queue(finery: Finery):
    assert "QUEUED" in finery("jobs", "show", "trainingJobs/1").stdout
    watched = finery("jobs", "watch", "trainingJobs/1", FINERY_TRAINER_MAX_RUNNING_JOBS="2")
    assert watched.returncode == 1
    assert "trainingJobs/1 is QUEUED, and there is no trainer that could go on with it." in watched.stderr
    assert "finery up" in watched.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("sft", "--batch_sise", "1"), 2, "--batch_size"),
        (("sft", "--dataset", "a"), 2, "error: model_type: say which model"),
        (("jobs", "show", "nonsense"), 1, "error: 'nonsense' is not a job's name"),
        (("infer",), 1, "error: No gateway is running"),
        (("up", "--inference_processes", "0"), 2, "error: inference_processes"),
        (("deploy", "--model_type", "x", "--replicas", "-1"), 2, "--replicas 0 takes all"),
        (("deploy", "--model_type", "x", "--replicas", "2"), 2, "`finery up --inference_processes 2` starts as many"),
        (("deploy", "--model_type", "x", "--port", "-5"), 2, "--port takes 1 to 65535"),
        (("deploy", "--model_type", "x", "--port", "99999"), 2, "--port takes 1 to 65535"),
        (("jobs", "list", "--limit", "-1"), 2, "--limit takes 1 or more"),
        (("jobs", "list", "--limit", "0"), 2, "--limit takes 1 or more"),
        (("deployments", "delete", "x"), 1, "error: No model 'x' is deployed"),
    ],
)
def test_errors_are_one_line_and_a_status(finery: Finery, words: tuple[str, ...], status: int, said: str):
    done = finery(*words)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if "error: " in done.stderr:
        assert done.stderr.count("\n") == 1, "nothing is started first"


@pytest.mark.parametrize("words", [SFT, ("jobs", "list"), ("up",), ("deployments", "list")])
def test_an_unusable_home_is_named(finery: Finery, words: tuple[str, ...]):
    done = finery(*words, FINERY_HOME="/proc/nope")
    assert done.returncode == 2
    assert "error: FINERY_HOME: /proc/nope/run can't be made" in done.stderr


def test_no_more_replicas_than_processes(finery: Finery, home: Home):
    for name in ("inference", "inference-1"):
        announce(home.announcement(name), "inference", "127.0.0.1:9")
    done = finery("deploy", "--model_type", "x", "--replicas", "3")
    assert done.returncode == 2
    assert "3 is more than there are inference processes (2)" in done.stderr


def test_a_service_that_can_not_be_reached(finery: Finery):
    begun = time.monotonic()
    done = finery(*SFT, FINERY_TRAINER="127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr == "error: The trainer at 127.0.0.1:9 can't be reached. Start it, or check its address.\n"
    assert time.monotonic() - begun < 15


def test_models_lists_the_registered_ones(finery: Finery):
    done = finery("models")
    assert done.returncode == 0
    assert "qwen1half-7b-chat-awq" in done.stdout
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in done.stdout


def test_up_starts_restarts_and_stops_everything(finery: Finery, home: Home):
    with finery.start("up", "--inference_processes", "2", **FREE_PORTS) as process:
        read_until(process, "Ctrl-C stops")
        names = sorted(path.stem for path in (home.root / "run").glob("*.json"))
        assert names == ["gateway", "inference", "inference-1", "quantizer", "trainer"]
        before = announced(home.announcement("trainer"))
        assert before is not None

        second = finery("up", **FREE_PORTS)
        assert second.returncode == 1
        assert "runs already" in second.stderr

        used = finery(*SFT)
        assert used.returncode == 0, used.stderr
        assert "Starting the trainer" not in used.stderr

        os.kill(before.pid, signal.SIGKILL)
        said = read_until(process, "Starting it again")
        assert "The trainer was ended by SIGKILL" in said
        wait_for(lambda: announced(home.announcement("trainer")) is not None)
        after = announced(home.announcement("trainer"))
        assert after is not None
        assert (after.address, after.pid != before.pid) == (before.address, True)

        process.send_signal(signal.SIGTERM)
        out, _ = finish(process)
    assert process.returncode == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "service",
        "gateway",
        "trainer",
        "quantizer",
        "inference",
        "inference",
    ]
    assert re.search(r"gateway +http://127.0.0.1:\d+/v1", out)
    assert list((home.root / "run").glob("*.json")) == []


def test_a_second_up_leaves_one_that_is_starting_alone(finery: Finery, home: Home, venvs: Path):
    write_interpreter(venvs, "trainer", "-c 'import time; time.sleep(600)'")
    with finery.start("up", **FREE_PORTS) as first:
        wait_for(lambda: announced(home.announcement("inference")) is not None)
        second = finery("up", **FREE_PORTS)
        assert second.returncode == 1
        assert f"`finery up` runs already: it is process {first.pid}." in second.stderr
        assert announced(home.announcement("inference")) is not None
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        finish(first)
    with finery.start("up", **FREE_PORTS) as next_one:
        wait_for(lambda: announced(home.announcement("inference")) is not None)
        next_one.send_signal(signal.SIGTERM)
        finish(next_one)


def test_up_that_can_not_start_one_stops_the_others(finery: Finery):
    server, address = serve(ScriptedTrainer())
    done = finery("up", **FREE_PORTS | {"FINERY_QUANTIZER_LISTEN": address})
    server.stop(0)
    assert done.returncode == 1
    assert "The quantizer ended with exit status 1" in done.stderr
