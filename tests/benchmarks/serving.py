"""Finery (gateway, gRPC, engine) beside vLLM's own server: the same engine arguments, the same client, in one run.

    .venvs/inference/bin/python tests/benchmarks/serving.py --model DIR --concurrency 1 8 --prompts 24 48
    python3 tests/benchmarks/serving.py --model DIR --gateway-python python3 --concurrency 1 64 256 --workers 4 \
        --engine-arg gpu_memory_utilization=0.42 --engine-arg load_format='"dummy"'

Both servers are up at the same time and take turns, so that what the machine does otherwise meets both. The client is
vLLM's own (`vllm bench serve`, by its module): random prompts of one length, answers of another, ignore_eos.
"""

# ruff: noqa: T201 - it prints

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from servers import ROOT, deploy, servers, wait_for

from finery_inference.engines.protocol import EngineConfig
from finery_inference.engines.vllm.arguments import engine_arguments
from finery_inference.engines.vllm.environment import vllm_environment
from finery_inference.engines.vllm.hardware import Hardware, is_cpu_build
from finery_inference.engines.vllm.tuning import OWN_FIELDS

NAME = "bench"
WARM_UP = 32
"""Requests to each server before anything is measured."""
Figures = dict[str, float]
WITHOUT_TEXT = "Never received a valid chunk"
"""What the client says of an answer of special tokens alone, into which a random prompt can lead a real model."""
FIGURES = {
    "tok/s": "output_throughput",
    "TTFT p50 ms": "median_ttft_ms",
    "TTFT p99 ms": "p99_ttft_ms",
    "TPOT p50 ms": "median_tpot_ms",
    "ITL p50 ms": "median_itl_ms",
    "ITL p99 ms": "p99_itl_ms",
}


def main() -> None:
    """Measure, and print one line for each server, concurrency and round, then the medians' ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--engine-arg", action="append", default=[], help="NAME=JSON, for both")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompts", type=int, nargs="+", help="for each concurrency; default: four rounds of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--input-len", type=int, default=256)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--endpoint", choices=["chat", "completions"], default="chat")
    parser.add_argument("--workers", type=int, default=1, help="of the gateway")
    parser.add_argument("--gateway-python", default=str(ROOT / ".venvs/core/bin/python"))
    parser.add_argument("--output", type=Path, help="file for every figure, as JSON")
    wish = parser.parse_args()
    arguments = {name: json.loads(value) for name, _, value in (text.partition("=") for text in wish.engine_arg)}
    alone = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with alone as client, peer(wish, dict(arguments)) as theirs, finery(wish, arguments) as ours:
        results = compare(client, {"vLLM's server": theirs(), "Finery": ours}, wish)
    if wish.output:
        wish.output.write_text(json.dumps(results, indent=2))


def compare(client: Executor, urls: dict[str, str], wish: argparse.Namespace) -> list[dict[str, Any]]:
    """All figures; prints them, and their ratios."""
    results = []
    prompts = wish.prompts or [max(4 * c, 16) for c in wish.concurrency]
    for url in urls.values():
        ask(client, url, wish, WARM_UP, WARM_UP, seed=0)
    for concurrency, count in zip(wish.concurrency, prompts, strict=True):
        for turn in range(wish.rounds):
            # Who goes first takes turns, too.
            for server in sorted(urls, reverse=bool(turn % 2)):
                figures = ask(client, urls[server], wish, concurrency, count, seed=turn + 1)
                results.append({"server": server, "concurrency": concurrency, "round": turn, **figures})
                print(server, f"c={concurrency}", *(f"{k}={v:,.2f}" for k, v in figures.items()), flush=True)
        print(f"c={concurrency}, Finery against vLLM's server, medians:", *ratios(results, concurrency), flush=True)
    return results


def ratios(results: list[dict[str, Any]], concurrency: int) -> Iterator[str]:
    """Each figure's medians over the rounds: ours, theirs, the ratio."""
    for figure in FIGURES:
        ours, theirs = (
            median(r[figure] for r in results if r["server"] == server and r["concurrency"] == concurrency)
            for server in ("Finery", "vLLM's server")
        )
        yield f"{figure} {ours:,.2f} / {theirs:,.2f} = {ours / theirs:.3f};"


def ask(client: Executor, url: str, wish: argparse.Namespace, concurrency: int, prompts: int, seed: int) -> Figures:
    """One run of the client."""
    chat = wish.endpoint == "chat"
    endpoint = "/v1/chat/completions" if chat else "/v1/completions"
    arguments = [
        *("--backend", "openai-chat" if chat else "openai", "--base-url", url, "--endpoint", endpoint),
        *("--model", NAME, "--tokenizer", str(wish.model), "--dataset-name", "random", "--seed", str(seed)),
        *("--random-input-len", str(wish.input_len), "--random-output-len", str(wish.output_len), "--ignore-eos"),
        *("--num-prompts", str(prompts), "--max-concurrency", str(concurrency), "--temperature", "0"),
        *("--percentile-metrics", "ttft,tpot,itl", "--disable-tqdm", "--save-detailed"),
    ]
    result = client.submit(vllm_bench, arguments).result()
    if reasons := {error for error in result["errors"] if error and not error.startswith(WITHOUT_TEXT)}:
        raise SystemExit(f"{url}: {prompts - result['completed']} of {prompts} requests failed: {sorted(reasons)}")
    return {name: result[key] for name, key in FIGURES.items()}


def vllm_bench(arguments: list[str]) -> dict[str, Any]:
    """What `vllm bench serve` does; runs in the client's process."""
    benchmark: Any = importlib.import_module("vllm.benchmarks.serve")
    parser = argparse.ArgumentParser()
    benchmark.add_cli_args(parser)
    with contextlib.redirect_stdout(io.StringIO()):
        result: dict[str, Any] = benchmark.main(parser.parse_args(arguments))
    return result


@contextmanager
def finery(wish: argparse.Namespace, arguments: dict[str, Any]) -> Iterator[str]:
    """The address of a gateway before an inference process."""
    fields = {name: arguments[name] for name in OWN_FIELDS & arguments.keys()}
    others = {name: json.dumps(value) for name, value in arguments.items() if name not in fields}
    with servers() as started:
        inference = started.inference(sys.executable, FINERY_INFERENCE_ALLOWED_ROOTS=str(wish.model.parent))
        spec = {"max_model_len": wish.max_model_len, "engine_args": others, **fields}
        deploy(inference, wish.model, NAME, **spec)
        gateway = started.gateway(inference, python=wish.gateway_python, workers=wish.workers)
        yield f"http://{gateway.address()}"


@contextmanager
def peer(wish: argparse.Namespace, arguments: dict[str, Any]) -> Iterator[Callable[[], str]]:
    """vLLM's own server with Finery's engine arguments and variables; yields what waits for its address."""
    fields = {name: arguments.pop(name) for name in list(arguments) if name in OWN_FIELDS}
    hardware = Hardware(is_cpu_build())
    config = EngineConfig(wish.model, wish.max_model_len, extra=arguments, **fields)
    with socket.socket() as probe, tempfile.TemporaryDirectory() as directory:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        scratch = Path(directory)
        environment = vllm_environment(hardware, os.getpid(), scratch, scratch)
        environment.pop("VLLM_LOGGING_CONFIG_PATH")
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--served-model-name", NAME, *flags(engine_arguments(config, hardware))]
        with (scratch / "peer.log").open("wb") as log:
            popen = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"

            def ready() -> str:
                wait_for(lambda: popen.poll() is not None or _answers(url), "vLLM's server", 600)
                if popen.poll() is not None:
                    raise SystemExit((scratch / "peer.log").read_text()[-4000:])
                return url

            yield ready
        finally:
            popen.send_signal(signal.SIGTERM)
            try:
                popen.wait(60)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


def flags(arguments: dict[str, Any]) -> Iterator[str]:
    """Engine arguments as vLLM's server takes them."""
    for name, value in arguments.items():
        # The server logs its own statistics in another way.
        if name == "disable_log_stats" or value is False:
            continue
        yield f"--{name.replace('_', '-')}"
        if value is not True:
            yield str(value)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
