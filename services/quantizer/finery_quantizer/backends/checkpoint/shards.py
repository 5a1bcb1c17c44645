"""The safetensors files of a model directory, read and written one at a time."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from finery_shared.errors import FineryError, Reason

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5", ".pkl"}
_FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_OURS = {"manifest.json", INDEX}


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that hold the model, in the order of the index. Raises MODEL_INVALID when one lacks."""
    index = directory / INDEX
    if index.is_file():
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [directory / name for name in sorted(set(weight_map.values()))]
    else:
        files = [directory / SINGLE]
    for file in files:
        if not file.is_file():
            raise FineryError(Reason.MODEL_INVALID, f"{file} is missing: complete the model's files.", file=str(file))
    return files


def read_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of one file, mapped from disk. Raises DATA_LOSS when the file can't be read as safetensors."""
    with _opened(file) as opened:
        for name in opened.keys():  # noqa: SIM118 - not a mapping
            yield name, opened.get_tensor(name)


class MappedTensors:
    """All tensors of a directory by name, each mapped from its file when it is asked for: a model's, or of one file."""

    def __init__(self, directory: Path, only: str | None = None) -> None:
        self._files: dict[str, Path] = {}
        for file in [directory / only] if only else weight_files(directory):
            with _opened(file) as opened:
                self._files |= dict.fromkeys(opened.keys(), file)

    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self._files)

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._files[name]

    def get(self, name: str) -> Tensor:
        """One tensor. Raises KeyError, and DATA_LOSS when its file can't be read."""
        with _opened(self._files[name]) as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        message = f"{file} can't be read as safetensors. Restore it from a copy, or make it again."
        raise FineryError(Reason.DATA_LOSS, message, detail=str(error), file=str(file)) from error


def tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, from the files' headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(directory):
        with _opened(file) as opened:
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return shapes


def storage_dtype(directory: Path) -> torch.dtype:
    """The floating dtype that most of a model's values are stored in."""
    counts = dict.fromkeys(_FLOATS.values(), 0)
    for file in weight_files(directory):
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                header = opened.get_slice(name)
                if header.get_dtype() in _FLOATS:
                    counts[_FLOATS[header.get_dtype()]] += math.prod(header.get_shape())
    return max(counts, key=lambda dtype: counts[dtype])


def write_shard(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file with the metadata that transformers expects."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a safetensors header: its dtype in the format's words, its shape, its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size: int


def read_entries(file: Path) -> dict[str, Entry]:
    """The tensors of one file in the order in which they lie there (the format: huggingface.co/docs/safetensors)."""
    with _opened(file), file.open("rb") as raw:  # opened by the library first, which checks the header
        header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
    header.pop("__metadata__", None)
    found = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {
        name: Entry(said["dtype"], tuple(said["shape"]), said["data_offsets"][1] - said["data_offsets"][0])
        for name, said in found
    }


def stream_shard(file: Path, entries: Mapping[str, Entry], tensors: Iterable[Tensor]) -> None:
    """Write one safetensors file a tensor at a time, in the order of `entries`; the next is made while one is written.

    The library's own writer wants all of them at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, entry in entries.items():
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [end, end + entry.size]}
        end += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out, ThreadPoolExecutor(1, thread_name_prefix="shard") as disk:
        out.write(len(text).to_bytes(8, "little") + text)
        writing: list[Future[int]] = []
        for tensor in tensors:
            content = tensor.contiguous().flatten().view(torch.uint8).numpy()
            if writing:
                writing.pop().result()
            writing.append(disk.submit(out.write, content.data))
        for last in writing:
            last.result()
        if out.tell() != 8 + len(text) + end:
            raise RuntimeError(f"{file}: its tensors are not of the sizes that its header says")


def write_index(directory: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    """Write the index of a model of several files; one file alone has none."""
    if len(set(weight_map.values())) > 1:
        content = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (directory / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def small_files(directory: Path) -> list[Path]:
    """The files of a model beside its weights: config, tokenizer, chat template, generation config, license."""
    found = (file for file in directory.iterdir() if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in found if file.suffix not in _WEIGHTS and file.name not in _OURS)


def copy_verbatim(files: Iterable[Path], destination: Path) -> None:
    """Copy files, contents alone (a hub's cache holds links)."""
    for file in files:
        shutil.copyfile(file, destination / file.name)
