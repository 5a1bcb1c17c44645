"""How fast the quantizer merges and quantizes, with stock AutoAWQ 0.2.9 and plain copying beside it in the same run.

    python tests/benchmarks/quantizer.py quantize --model DIR [--tokens 1024]       # real weights, the demo's rows
    python tests/benchmarks/quantizer.py quantize --shape 7b --layers 32 --scratch DIR
    python tests/benchmarks/quantizer.py merge --shape 7b --layers 32 --scratch DIR

Shapes are Qwen1.5's with random weights and random tokens. Stock AutoAWQ does `--stock-layers` layers of the same model
on the same tokens; its time for all is that by the layer. On a CPU its backup that aliases the weights is mended first,
or it would search on weights that it has broken itself. The full search (every candidate on every token) runs on the
same layers, to see whether the coarse one picks the same scales.
"""

# ruff: noqa: T201 - it prints

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from finery_quantizer.backends.awq.backend import AwqBackend
from finery_quantizer.backends.awq.memory import device_bytes
from finery_quantizer.backends.awq.options import AwqOptions
from finery_quantizer.backends.awq.search import LayerSearch
from finery_quantizer.backends.checkpoint.device import pick_device
from finery_quantizer.backends.checkpoint.shards import INDEX, MappedTensors, write_index
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_quantizer.backends.checkpoint.tokenizer import load_tokenizer
from finery_quantizer.backends.lora.adapter import read_adapter
from finery_quantizer.backends.lora.fold import fold

SHAPES = {"7b": (4096, 11008, 32, 151936), "72b": (8192, 24576, 64, 152064)}
"""Hidden size, width of the MLP, heads (each of 128, as many for keys), vocabulary."""

GIB = 2**30
DEVICE = pick_device()


def write_shape(directory: Path, shape: str, layers: int) -> Path:
    """A Qwen1.5 checkpoint of random fp16 weights, a file for every four layers."""
    hidden, width, heads, vocabulary = SHAPES[shape]
    directory.mkdir(parents=True)
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    (directory / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weight_map: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(_random_files(hidden, width, vocabulary, layers)):
        name = f"model-{number:05d}.safetensors"
        save_file(tensors, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    write_index(directory, weight_map, total)
    return directory


def _random_files(hidden: int, width: int, vocabulary: int, layers: int) -> Iterator[dict[str, Tensor]]:
    def weight(out: int, columns: int) -> Tensor:
        return (torch.randn(out, columns, device=DEVICE) * columns**-0.5).half().cpu()

    def norm() -> Tensor:  # a few channels are far louder than the rest, as in real models
        return (1 + 20 * torch.rand(hidden).pow(32)).half()

    rest = {"model.embed_tokens.weight": weight(vocabulary, hidden), "lm_head.weight": weight(vocabulary, hidden)}
    yield {**rest, "model.norm.weight": norm()}
    shapes = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (width, hidden), "mlp.up_proj": (width, hidden), "mlp.down_proj": (hidden, width)}
    for start in range(0, layers, 4):
        tensors: dict[str, Tensor] = {}
        for layer in range(start, min(layers, start + 4)):
            prefix = f"model.layers.{layer}."
            tensors |= {f"{prefix}{name}.weight": weight(*shape) for name, shape in shapes.items()}
            tensors |= {f"{prefix}self_attn.{name}_proj.bias": torch.zeros(hidden).half() for name in "qkv"}
            tensors |= {f"{prefix}{name}.weight": norm() for name in ("input_layernorm", "post_attention_layernorm")}
        yield tensors


def first_layers(source: Path, destination: Path, count: int) -> Path:
    """The first `count` layers of `source` as a model of its own; its files are links."""
    destination.mkdir()
    names = MappedTensors(source)
    wanted = {n for n in names.names() if ".layers." not in n or int(n.split(".layers.")[1].split(".")[0]) < count}
    by_file: dict[str, dict[str, Tensor]] = {}
    for name in wanted:
        by_file.setdefault(names.file(name).name, {})[name] = names.get(name)
    for file in source.iterdir():
        if file.suffix != ".safetensors" and file.name not in (INDEX, "manifest.json"):
            shutil.copyfile(file, destination / file.name)
    for file_name, tensors in by_file.items():
        save_file(tensors, destination / file_name, metadata={"format": "pt"})
    if (source / INDEX).is_file():
        write_index(destination, {n: f for f, tensors in by_file.items() for n in tensors}, 0)
    config = json.loads((source / "config.json").read_text()) | {"num_hidden_layers": count}
    (destination / "config.json").write_text(json.dumps(config))
    return destination


@contextmanager
def timed(what: str, found: dict[str, float]) -> Iterator[None]:
    """Adds the seconds until all is done and written to `found`."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    yield
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    found[what] = time.perf_counter() - start
    peak = f", {torch.cuda.max_memory_allocated() / GIB:.1f} GiB of GPU memory" if DEVICE.type == "cuda" else ""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {found[what]:.1f} s{peak}, host peak so far {host:.1f} GiB", flush=True)


def ours(source: Path, scratch: Path, blocks: Sequence[Sequence[int]], options: AwqOptions | None = None) -> Path:
    """Quantize `source` into `scratch`."""
    marks = [time.perf_counter()]
    backend = AwqBackend(source, DEVICE, scratch / "state", options)
    backend.quantize(source, scratch / "int4", blocks, lambda *_: marks.append(time.perf_counter()))
    steps = [later - earlier for earlier, later in itertools.pairwise(marks[1:])]
    print("  begin", f"{marks[1] - marks[0]:.1f}, layers", " ".join(f"{s:.2f}" for s in steps), flush=True)
    return scratch / "int4"


def stock(source: Path, blocks: Sequence[Sequence[int]], group: int) -> list[Tensor]:
    """Stock AutoAWQ on `source`, its loading included; the scales of every group, in order."""
    with warnings.catch_warnings(record=True):
        from awq import AutoAWQForCausalLM
        from awq.quantize.quantizer import AwqQuantizer
    found: list[Tensor] = []
    search = AwqQuantizer._search_best_scale

    def record(self: Any, *arguments: Any, **keywords: Any) -> Any:
        result = search(self, *arguments, **keywords)
        found.append(result[2])
        return result

    model = AutoAWQForCausalLM.from_pretrained(
        str(source), safetensors=True, torch_dtype=torch.float16 if DEVICE.type == "cuda" else torch.float32
    )
    config = {"zero_point": True, "q_group_size": group, "w_bit": 4, "version": "GEMM"}
    with ExitStack() as stack:
        stack.enter_context(patch.object(AwqQuantizer, "_search_best_scale", record))
        if DEVICE.type == "cpu":
            stack.enter_context(patch.object(Tensor, "cpu", Tensor.clone))
        model.quantize(
            None, config, calib_data=[list(block) for block in blocks], max_calib_samples=10**6,
            max_calib_seq_len=len(blocks[0]),
        )  # fmt: skip
    return found


@contextmanager
def recorded_scales() -> Iterator[list[Tensor]]:
    """The scales of every group of every layer that is searched within it, in order."""
    found: list[Tensor] = []
    decide = LayerSearch.decide

    def record(self: LayerSearch, *arguments: Any) -> list[Tensor]:
        scales = decide(self, *arguments)
        found.extend(scale.cpu() for scale in scales)
        return scales

    with patch.object(LayerSearch, "decide", record):
        yield found


def same_scales(some: Sequence[Tensor], others: Sequence[Tensor]) -> str:
    """How many groups took the same one of AutoAWQ's candidates."""
    pairs = list(zip(some, others, strict=False))
    same = sum(torch.allclose(a.float(), b.float(), rtol=0.02) for a, b in pairs)
    return f"{same} of {len(pairs)} groups take the same scales"


def quantize(arguments: argparse.Namespace, scratch: Path, found: dict[str, float]) -> None:
    """Measure quantization."""
    if arguments.model:
        source = arguments.model
        blocks = demo_blocks(source, arguments.tokens)
        arguments.layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    else:
        source = write_shape(scratch / "model", arguments.shape, arguments.layers)
        vocabulary = SHAPES[arguments.shape][-1]
        blocks = torch.randint(0, vocabulary, (arguments.blocks, arguments.length)).tolist()
    print(f"{sum(map(len, blocks))} calibration tokens in {len(blocks)} blocks", flush=True)
    with timed("quantize", found), recorded_scales() as coarse:
        int4 = ours(source, scratch, blocks)
    group = json.loads((int4 / "config.json").read_text())["quantization_config"]["group_size"]
    model = StreamedModel(source, DEVICE, torch.float16)
    hidden, rest = device_bytes(model, len(blocks), len(blocks[0]), AwqOptions().on(DEVICE))
    found["estimated_gib"] = (hidden + rest) / GIB
    count = arguments.stock_layers
    if not count:
        return
    part = first_layers(source, scratch / "part", count)
    full = replace(AwqOptions().on(DEVICE), coarse_tokens=10**9)
    (scratch / "full").mkdir()
    with timed(f"full search, {count} layers", found), recorded_scales() as every:
        ours(part, scratch / "full", blocks, full)
    print("coarse against full search:", same_scales(coarse, every), flush=True)
    with timed(f"stock AutoAWQ, {count} layers", found):
        theirs = stock(part, blocks, group)
    print("full search against stock:", same_scales(every, theirs), flush=True)
    found["stock by the layer, all layers"] = found[f"stock AutoAWQ, {count} layers"] / count * arguments.layers
    found["ratio"] = found["stock by the layer, all layers"] / found["quantize"]


def demo_blocks(source: Path, tokens: int) -> Sequence[Sequence[int]]:
    """Calibration blocks as a job on a CPU makes them of the data sets that come with Finery."""
    from finery_quantizer.calibration import calibration_rows, cut_blocks
    from finery_quantizer.request import DEFAULT_DATASETS, ExportRequest, TrainingRecipe

    rows = calibration_rows(DEFAULT_DATASETS, ExportRequest(), TrainingRecipe())
    return cut_blocks(load_tokenizer(source), rows, 2048, at_least=512, at_most=tokens).ids


def merge(arguments: argparse.Namespace, scratch: Path, found: dict[str, float]) -> None:
    """Measure folding an adapter beside copying the files, both to the disk, each in a process of its own."""
    source = arguments.model or write_shape(scratch / "model", arguments.shape, arguments.layers)
    adapter = write_adapter(source, scratch / "adapter")
    for attempt in (1, 2):  # the first one finds the source in no cache
        for what, work in (("copy", _copy), ("merge", _merge)):
            shutil.rmtree(scratch / what, ignore_errors=True)
            os.sync()
            with multiprocessing.get_context("spawn").Pool(1) as process:
                seconds, memory = process.apply(work, (source, adapter, scratch / what))
            found[f"{what} {attempt}"] = seconds
            print(f"{what} {attempt}: {seconds:.1f} s, {memory:.2f} GiB of its own memory at most", flush=True)
    found["ratio"] = found["merge 2"] / found["copy 2"]


def _copy(source: Path, _adapter: Path, destination: Path) -> tuple[float, float]:
    return _to_disk(lambda: shutil.copytree(source, destination))


def _merge(source: Path, adapter: Path, destination: Path) -> tuple[float, float]:
    return _to_disk(lambda: list(fold(source, read_adapter(adapter), destination)))


def _to_disk(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds until all is on the disk, and the most GiB of memory (mapped files aside) that were added meanwhile."""
    before, peak, done = _own_memory(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, _own_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    start = time.perf_counter()
    work()
    os.sync()
    seconds = time.perf_counter() - start
    done.set()
    watching.join()
    return seconds, (peak - before) / GIB


def _own_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def write_adapter(source: Path, directory: Path) -> Path:
    """A random LoRA adapter of rank 8 over all linear layers, in PEFT's format."""
    directory.mkdir()
    tensors, base = {}, MappedTensors(source)
    for name in base.names():
        if name.endswith("_proj.weight"):
            out, columns = base.get(name).shape
            prefix = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(8, columns) * 0.01
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, 8) * 0.01
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 32, "base_model_name_or_path": str(source)}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def main() -> None:
    """Measure what is asked for, and print every figure as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quantize", "merge"))
    parser.add_argument("--model", type=Path, help="a model's directory; else --shape")
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=1024, help="calibration tokens, with --model")
    parser.add_argument("--stock-layers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where to write; a temporary directory if not said")
    arguments = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch, torch.inference_mode():
        {"quantize": quantize, "merge": merge}[arguments.what](arguments, Path(scratch), found)
    print(json.dumps({"device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu", **found}))


if __name__ == "__main__":
    main()
