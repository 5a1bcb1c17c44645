"""What a gateway carries: chunks and tokens a second, many streams at once, memory over many requests.

    python tests/benchmarks/gateway.py throughput [--streams 64] [--workers 1] [--engines 1]
    python tests/benchmarks/gateway.py streams    [--streams 1000]
    python tests/benchmarks/gateway.py memory     [--requests 100000]

The engine is the fake one, which makes tokens by the clock; nothing but the gateway shall be what limits. Where cores
are few, it shares them with engine and clients: then its own CPU time a chunk tells what one core would carry.
"""

# ruff: noqa: T201 - it prints

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from servers import ROOT, Server, Servers, deploy, servers
from stream_load import Load, Outcome, percentile

MODEL = "fake"


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "streams", "memory"])
    parser.add_argument("--streams", type=int)
    parser.add_argument("--workers", type=int, default=1, help="of the gateway")
    parser.add_argument("--engines", type=int, default=1, help="inference processes")
    parser.add_argument("--clients", type=int, default=1, help="client processes")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=400, help="tokens a second that the engine makes for each stream")
    parser.add_argument("--tokens-per-delta", type=int, default=1)
    parser.add_argument("--inference-python", default=str(ROOT / ".venvs/inference/bin/python"))
    wish = parser.parse_args()
    with servers() as started:
        gateway = start(started, wish)
        url = f"http://{gateway.address()}"
        if wish.what == "memory":
            result = measure_memory(gateway, url, wish)
        else:
            streams = wish.streams or (1000 if wish.what == "streams" else 64)
            load = Load(url, MODEL, streams, wish.requests or 1, wish.max_tokens, wish.clients)
            result = measure(gateway, started, load)
    print(json.dumps(vars(wish) | result, indent=2))


def start(started: Servers, wish: argparse.Namespace) -> Server:
    """Inference processes with fake engines, and the gateway."""
    pace = {
        "FINERY_INFERENCE_ENGINE": "fake",
        "FINERY_INFERENCE_FAKE_TOKENS_PER_SECOND": str(wish.rate),
        "FINERY_INFERENCE_FAKE_TOKENS_PER_DELTA": str(wish.tokens_per_delta),
    }
    engines = [started.inference(wish.inference_python, **pace) for _ in range(wish.engines)]
    model = model_directory(started.directory / "home" / "model")
    for engine in engines:
        deploy(engine, model, MODEL, max_model_len=8192)
    return started.gateway(*engines, workers=wish.workers)


def measure(gateway: Server, started: Servers, load: Load) -> dict[str, object]:
    """One load, with the CPU time that each service took."""
    Load(load.url, load.model, 4, 1, 8).run()
    before = {server.name: server.cpu_seconds() for server in started.all}
    loop_before = gateway.busiest_thread_seconds()
    begin = time.perf_counter()
    outcome = load.run()
    wall = time.perf_counter() - begin
    cpu = {server.name: server.cpu_seconds() - before[server.name] for server in started.all}
    # The wall clock holds the start of the client processes, too; the streams' own time does not.
    span = max(outcome.seconds, default=wall) * load.requests
    busy, loop = cpu[gateway.name], gateway.busiest_thread_seconds() - loop_before
    return {
        "errors": len(outcome.errors),
        "first_errors": outcome.errors[:3],
        "chunks": outcome.chunks,
        "tokens": outcome.tokens,
        "chunks_per_second": round(outcome.chunks / span),
        "tokens_per_second": round(outcome.tokens / span),
        "cpu_seconds": {name: round(seconds, 2) for name, seconds in cpu.items()},
        "chunks_per_gateway_cpu_second": round(outcome.chunks / busy) if busy else None,
        "chunks_per_event_loop_cpu_second": round(outcome.chunks / loop) if loop else None,
        **_first_tokens(outcome),
    }


def measure_memory(gateway: Server, url: str, wish: argparse.Namespace) -> dict[str, object]:
    """Resident memory of the gateway after each tenth of many short requests, half of which the client leaves."""
    total, streams = wish.requests or 100_000, wish.streams or 50
    load = Load(url, MODEL, streams, total // streams // 10, 24, wish.clients, leave_after=600)
    resident, errors = [], 0
    for tenth in range(10):
        errors += len(load.run().errors)
        resident.append(round(gateway.resident_bytes() / 2**20, 1))
        print(f"{(tenth + 1) * 10} %: {resident[-1]} MiB, {errors} errors", file=sys.stderr, flush=True)
    return {"requests": load.requests * streams * 10, "errors": errors, "resident_mib": resident}


def _first_tokens(outcome: Outcome) -> dict[str, float]:
    names = {"p50": 0.5, "p99": 0.99}
    return {f"first_token_ms_{name}": round(percentile(outcome.first, at) * 1000, 1) for name, at in names.items()}


def model_directory(path: Path) -> Path:
    """What a deployment asks of a model's directory; the fake engine reads no weights."""
    path.mkdir(parents=True)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192, "vocab_size": 259, **shape}
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|im_end|>"}))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


if __name__ == "__main__":
    main()
