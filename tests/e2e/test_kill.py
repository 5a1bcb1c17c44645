"""SIGKILL for each process: callers hear of it within ten seconds, and the restarted process goes on."""

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import openai
import psutil

from finery_shared.artifacts import Kind, verify
from tests.e2e.conftest import BIN, MODEL, Stack, processes_of, wait_for

SOON = 10.0


def ask(stack: Stack, text: str = "Who are you?", **options: object) -> str:
    completion = stack.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=32, **options
    )  # type: ignore[call-overload]
    return completion.choices[0].message.content or ""


class Load:
    """Clients that ask again and again; each answer or error is kept with its time."""

    def __init__(self, stack: Stack, clients: int) -> None:
        self._stack = stack
        self._done = threading.Event()
        self.answers: list[str] = []
        self.errors: list[tuple[float, Exception]] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._done.is_set():
            begun = time.monotonic()
            try:
                self.answers.append(ask(self._stack))
            except openai.APIError as error:
                self.errors.append((time.monotonic() - begun, error))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def ready_deployments(stack: Stack) -> int:
    return stack.finery("deployments", "list").stdout.upper().count("READY")


def test_one_of_two_inference_processes_is_killed_under_load(stack: Stack) -> None:
    expected = ask(stack)
    with Load(stack, 4) as load:
        wait_for("answers", lambda: len(load.answers) >= 8, 60)
        before = stack.kill("inference-1")
        after_kill = len(load.answers)
        wait_for("answers after the kill", lambda: len(load.answers) >= after_kill + 12, 60)
    assert set(load.answers) == {expected}
    assert all(seconds < SOON for seconds, _ in load.errors), load.errors
    assert all(isinstance(error, openai.APIStatusError | openai.APIConnectionError) for _, error in load.errors)
    wait_for("the process to be back", lambda: (stack.find("inference-1") or before).pid != before.pid, 60)
    wait_for("its deployment to be loaded again", lambda: ready_deployments(stack) == 2, 180)


def test_the_engine_of_one_of_two_inference_processes_is_killed_under_load(stack: Stack) -> None:
    expected = ask(stack)
    inference = stack.find("inference-1")
    assert inference is not None
    engines = [child for child in psutil.Process(inference.pid).children() if child.name().startswith("VLLM")]
    assert len(engines) == 1
    with Load(stack, 4) as load:
        wait_for("answers", lambda: len(load.answers) >= 8, 60)
        engines[0].kill()
        after_kill = len(load.answers)
        wait_for("answers after the kill", lambda: len(load.answers) >= after_kill + 12, 60)
    assert set(load.answers) == {expected}
    assert all(seconds < SOON for seconds, _ in load.errors), load.errors
    assert all(isinstance(error, openai.APIStatusError) for _, error in load.errors)
    wait_for("its deployment to be loaded again", lambda: ready_deployments(stack) == 2, 180)
    assert stack.find("inference-1") == inference


def test_a_killed_gateway_is_noticed_and_comes_back(stack: Stack) -> None:
    before = stack.kill("gateway")
    begun = time.monotonic()
    try:
        openai.OpenAI(
            api_key="EMPTY", base_url=f"http://{before.address.removeprefix('http://')}/v1", max_retries=0, timeout=60
        ).models.list()
        raise AssertionError("a dead gateway answered")
    except openai.APIConnectionError:
        assert time.monotonic() - begun < SOON
    wait_for("the gateway to be back", lambda: (stack.find("gateway") or before).pid != before.pid, 60)
    wait_for("it to know the model", lambda: [m.id for m in stack.client().models.list().data] == [MODEL], 30)
    assert ask(stack)


def follow_through_kills(stack: Stack, service: str, command: list[str], tmp_path: Path) -> str:
    """What a command that follows a job prints: the job's service dies under it, then its worker, and it ends well."""
    log = (tmp_path / "command.log").open("w+")
    follower = subprocess.Popen(command, cwd=stack.work, env=stack.env, stdout=subprocess.PIPE, stderr=log, text=True)
    wait_for("the job to run", lambda: "RUNNING" in stack.finery("jobs", "list").stdout.upper(), 60)
    before = stack.kill(service)
    wait_for("the service to be back", lambda: (stack.find(service) or before).pid != before.pid, 60)
    workers = [pid for pid, line in processes_of(stack.home).items() if f"finery_{service}.worker" in line]
    assert len(workers) == 1, "the worker did not outlive its service"
    os.kill(workers[0], signal.SIGKILL)
    output, _ = follower.communicate(timeout=300)
    log.seek(0)
    assert follower.returncode == 0, log.read()
    log.close()
    return output


def test_trainer_and_its_worker_are_killed_and_the_job_ends_well(stack: Stack, tmp_path: Path) -> None:
    options = ["--model_type", MODEL, "--dataset", "general-en#40", "--max_steps", "12", "--batch_size", "2"]
    command = [str(BIN / "finery"), "sft", *options, "--output_dir", str(tmp_path / "out")]
    best = follow_through_kills(stack, "trainer", command, tmp_path).strip().splitlines()[-1]
    assert best.startswith("best_model_checkpoint: ")
    assert (Path(best.partition(": ")[2]) / "adapter_model.safetensors").is_file()


def test_quantizer_and_its_worker_are_killed_and_the_job_ends_well(
    stack: Stack, quantized: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "tuned"
    shutil.copytree(str(quantized).removesuffix("-merged-awq-int4"), adapter)
    command = [str(BIN / "finery"), "export", "--ckpt_dir", str(adapter), "--merge_lora", "true"]
    follow_through_kills(stack, "quantizer", command, tmp_path)
    assert verify(tmp_path / "tuned-merged").kind is Kind.MODEL
    assert not (tmp_path / ".staging").exists()


def test_a_command_says_which_service_is_not_there(stack: Stack) -> None:
    env = {**stack.env, "FINERY_QUANTIZER": "127.0.0.1:1"}
    begun = time.monotonic()
    command = [str(BIN / "finery"), "jobs", "show", "exportJobs/none"]
    done = subprocess.run(command, cwd=stack.work, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "quantizer" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begun < 2 * SOON
