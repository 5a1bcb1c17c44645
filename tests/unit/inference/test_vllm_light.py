"""The parts around vLLM that don't need it."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from pydantic import JsonValue

from finery_inference.engines.kv_cache import bytes_per_token, kv_cache_bytes
from finery_inference.engines.protocol import MOST_ADAPTERS, EngineConfig, LoraLimits
from finery_inference.engines.vllm.arguments import engine_arguments, most_adapters
from finery_inference.engines.vllm.environment import scratch_directory, vllm_environment
from finery_inference.engines.vllm.factory import VllmFactory
from finery_inference.engines.vllm.hardware import Hardware
from finery_inference.engines.vllm.last_words import LAST_WORDS, LastWords, LastWordsHandler
from finery_inference.engines.vllm.tuning import check_tuning
from finery_shared.errors import FineryError

SMOLLM2 = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
QWEN_7B = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "torch_dtype": "float16"}
GIB = 2**30


def test_room_for_adapters(tmp_path: Path) -> None:
    config = EngineConfig(tmp_path, 512, lora=LoraLimits(batch=4, rank=48))
    given = engine_arguments(config, Hardware(cpu=False))
    assert (given["enable_lora"], given["max_loras"], given["max_lora_rank"]) == (True, 4, 64)
    assert given["max_cpu_loras"] == most_adapters(config, Hardware(cpu=False)) == MOST_ADAPTERS
    # On a CPU one slot stays empty.
    on_cpu = engine_arguments(config, Hardware(cpu=True, kv_cache_bytes=GIB, bf16=True))
    assert on_cpu["max_loras"] == most_adapters(config, Hardware(cpu=True)) + 1 == 5


def test_everything_chosen_reaches_vllm(tmp_path: Path) -> None:
    config = EngineConfig(
        tmp_path, 512, dtype="float16", gpu_memory_utilization=0.5, tensor_parallel_size=2, extra={"max_num_seqs": 64}
    )
    given = engine_arguments(config, Hardware(cpu=False))
    assert given["model"] == given["tokenizer"] == str(tmp_path)
    assert (given["max_model_len"], given["dtype"], given["gpu_memory_utilization"]) == (512, "float16", 0.5)
    assert (given["tensor_parallel_size"], given["max_num_seqs"]) == (2, 64)
    assert given["trust_remote_code"] is False
    assert "enable_lora" not in given
    assert given["load_format"] == "safetensors"
    assert "quantization" not in given  # vLLM reads it from the model
    assert engine_arguments(EngineConfig(tmp_path), Hardware(cpu=False))["max_model_len"] == -1
    on_cpu = engine_arguments(EngineConfig(tmp_path), Hardware(cpu=True, kv_cache_bytes=GIB, bf16=True))
    assert (on_cpu["kv_cache_memory_bytes"], on_cpu["distributed_executor_backend"]) == (GIB, "uni")


def test_the_factory_refuses_what_is_not_for_tuning(tmp_path: Path) -> None:
    factory = VllmFactory(Hardware(cpu=True), tmp_path / "scratch")
    factory.check({"max_num_seqs": 4})
    with pytest.raises(FineryError, match="worker_cls can't be set"):
        factory.check({"worker_cls": "os.system"})


def test_bytes_of_a_token() -> None:
    assert bytes_per_token(SMOLLM2) == 2 * 30 * 3 * 64 * 2
    assert bytes_per_token(QWEN_7B) == 512 * 1024
    assert bytes_per_token({**QWEN_7B, "torch_dtype": "float32"}) == 1024 * 1024
    assert bytes_per_token(QWEN_7B, "float32") == 1024 * 1024
    assert bytes_per_token({**SMOLLM2, "head_dim": 128}) == 2 * 30 * 3 * 128 * 2


@pytest.mark.parametrize(
    ("described", "length", "expected"),
    [
        (SMOLLM2, 8192, 4 * 8192 * 23040),
        (SMOLLM2, 512, 256 * 2**20),
        (QWEN_7B, 2048, 4 * GIB),
        (QWEN_7B, 32768, 6 * GIB),
    ],
)
def test_a_cache_holds_four_requests_within_bounds(
    tmp_path: Path, described: dict[str, object], length: int, expected: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**described, "max_position_embeddings": length}))
    assert kv_cache_bytes(EngineConfig(tmp_path), 24 * GIB) == expected
    assert kv_cache_bytes(EngineConfig(tmp_path, max_model_len=length), 24 * GIB) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("reasoning_parser_plugin", "structured_outputs_config", "scheduler_cls", "model_class_overrides"),
        *("kv_transfer_config", "compilation_config", "worker_cls", "logits_processors", "hf_overrides"),
        *("distributed_executor_backend", "io_processor_plugin", "additional_config", "trust_remote_code"),
        *("speculative_config", "spec_model", "profiler_config", "log_config_file", "mm_encoder_fp8_scale_save_path"),
        *("allowed_local_media_path", "model", "tokenizer", "download_dir", "kv_events_config"),
        *("otlp_traces_endpoint", "data_parallel_address", "master_addr", "hf_token", "an_argument_of_tomorrow"),
    ],
)
def test_what_runs_code_or_opens_files_or_connections_is_refused(name: str) -> None:
    with pytest.raises(FineryError, match=f"{name} can't be set") as refusal:
        check_tuning({"max_num_seqs": 4, name: "x"})
    assert refusal.value.metadata == {"field": "engine_args"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_num_seq": 4}, "Did you mean max_num_seqs"),
        ({"hf_token": "x"}, "What can be: .*max_num_seqs"),
        ({"dtype": "float16"}, "a field of its own"),
        ({"load_format": "pt"}, "safetensors"),
        ({"quantization": {"kernel": "x"}}, "quantization is neither"),
        ({"cudagraph_capture_sizes": [1, "x"]}, "cudagraph_capture_sizes is neither"),
    ],
)
def test_other_engine_arguments_are_refused_with_the_remedy(arguments: dict[str, JsonValue], words: str) -> None:
    with pytest.raises(FineryError, match=words):
        check_tuning(arguments)


def test_tuning_is_let_through() -> None:
    arguments: dict[str, JsonValue] = {"max_num_seqs": 4, "seed": None, "enforce_eager": True, "load_format": "dummy"}
    check_tuning(arguments | {"cudagraph_capture_sizes": [1, 2]})


def test_a_socket_fits_into_the_scratch_directory_however_deep_the_state_is() -> None:
    deep = Path("/srv") / ("x" * 200) / "inference"
    scratch = scratch_directory(deep)
    assert scratch == scratch_directory(deep) != scratch_directory(deep / "second")
    assert len(f"{scratch}/{uuid.uuid4()}") <= 107


def test_a_process_ends_with_its_owner() -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    code = (
        "from finery_inference.engines.vllm.owner import watch_owner; import time; watch_owner();"
        "print('ready', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, **vllm_environment(Hardware(cpu=True), owner.pid, Path("/nowhere"), Path("/tmp"))}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert child.poll() is None
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        start = time.monotonic()
        assert child.wait(10) == -signal.SIGKILL
        assert time.monotonic() - start < 3
        late = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=30)
        assert late.returncode == -signal.SIGKILL
    finally:
        for process in (owner, child):
            process.kill()
            process.wait()
        child.stdout.close()


def test_the_owner_itself_lives() -> None:
    code = (
        "import os; from finery_inference.engines.vllm.owner import OWNER, watch_owner;"
        "os.environ[OWNER] = str(os.getpid()); watch_owner()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


def test_the_first_exception_is_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAST_WORDS, str(tmp_path / "words.txt"))
    words, log = LastWords.from_env(), logging.Logger("engine")
    log.addHandler(LastWordsHandler())
    assert words.read() == ""
    log.error("no exception")
    assert words.read() == ""
    for cause in ("the cache is too small", "the engine is dead"):
        try:
            raise ValueError(cause)
        except ValueError:
            log.exception("failed")
    assert words.read() == "the cache is too small"
    words.forget()
    assert words.read() == ""
