"""Finished layers on disk: a killed job goes on at the next one."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from finery_quantizer.backends.awq.quantizer import QuantizedLayer
from finery_quantizer.backends.checkpoint.fingerprint import fingerprint
from finery_shared.artifacts import disk_errors

_KEY = "key"
_FINGERPRINTS = "fingerprints"
_QUANTIZED = "quantized"


class FinishedLayers:
    """One file a layer in `directory`, all made from what `key` says; those of another key are removed."""

    def __init__(self, directory: Path, key: str) -> None:
        self._directory = directory
        self._key = key
        directory.mkdir(parents=True, exist_ok=True)
        self._notes: list[dict[str, str]] = []
        while (notes := self._read(len(self._notes))) is not None:
            self._notes.append(notes)
        for path in directory.iterdir():
            if path not in self.files:
                path.unlink()

    @property
    def count(self) -> int:
        """How many of the first layers are there."""
        return len(self._notes)

    @property
    def files(self) -> list[Path]:
        """Their files, in order."""
        return [self._file(index) for index in range(self.count)]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What has to be found in the files, by the tensor's name."""
        return {name: digest for notes in self._notes for name, digest in json.loads(notes[_FINGERPRINTS]).items()}

    @property
    def quantized(self) -> frozenset[str]:
        """Names of the weights that were packed."""
        return frozenset(name for notes in self._notes for name in json.loads(notes[_QUANTIZED]))

    def add(self, layer: QuantizedLayer) -> None:
        """Keep the next layer; it is there whole or not at all."""
        tensors = layer.tensors()
        notes = {
            "format": "pt",
            _KEY: self._key,
            _FINGERPRINTS: json.dumps({name: fingerprint(tensor) for name, tensor in tensors.items()}),
            _QUANTIZED: json.dumps([f"{name}.weight" for name in layer.packed]),
        }
        file = self._file(layer.index)
        half = file.with_suffix(".half")
        with disk_errors(self._directory):
            save_file(tensors, half, metadata=notes)
            half.replace(file)
        self._notes.append(notes)

    def _read(self, index: int) -> dict[str, str] | None:
        try:
            with safe_open(self._file(index), framework="pt") as opened:
                notes: dict[str, str] = opened.metadata()
        except (SafetensorError, OSError):
            return None
        return notes if notes.get(_KEY) == self._key else None

    def _file(self, index: int) -> Path:
        return self._directory / f"layer-{index:05d}.safetensors"
