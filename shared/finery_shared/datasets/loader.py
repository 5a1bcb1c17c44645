"""``--dataset``, from arguments to conversations: located, read, filled, checked, split, drawn, shuffled."""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from finery_shared.datasets import registry
from finery_shared.datasets.conversation import Conversation
from finery_shared.datasets.files import data_files
from finery_shared.datasets.grammar import DatasetSpec, HubName, parse
from finery_shared.datasets.hubs import DatasetHub, hubs_from
from finery_shared.datasets.identity import Identity
from finery_shared.datasets.reading import RowReader, Skipped, Tick
from finery_shared.datasets.sampling import Sample, draw
from finery_shared.datasets.selection import DatasetReport, FilePart, MadePart, Part, Selection, number_rows
from finery_shared.datasets.source import Source, locate
from finery_shared.errors import FineryError, Reason, invalid

Mix = Callable[[Sequence[Conversation], random.Random], Sequence[Conversation]]
"""Makes the rows that are used from those that were drawn, repeats included."""


@dataclass(frozen=True)
class LoadedDatasets:
    """Shuffled conversations for training and validation, and where they came from."""

    train: tuple[Conversation, ...]
    val: tuple[Conversation, ...]
    report: tuple[DatasetReport, ...]


@dataclass(frozen=True)
class _Drawn:
    """What one data set contributes; ``train`` and ``val`` are numbers of rows in ``part``."""

    part: Part
    train: array[int]
    val: array[int]
    report: DatasetReport


def load(
    datasets: Sequence[str],
    *,
    val_datasets: Sequence[str] = (),
    seed: int = 42,
    test_ratio: float = 0.01,
    names: Sequence[str] = (),
    authors: Sequence[str] = (),
    system: str = "",
    hubs: Mapping[HubName, DatasetHub] | None = None,
    mix: Mix | None = None,
) -> LoadedDatasets:
    """The rows of `select`, all in memory."""
    selection = select(
        datasets,
        val_datasets=val_datasets,
        seed=seed,
        test_ratio=test_ratio,
        names=names,
        authors=authors,
        system=system,
        hubs=hubs,
        mix=mix,
    )
    rows = tuple(selection.rows())
    train = tuple(rows[number] for number in selection.train)
    return LoadedDatasets(train, tuple(rows[number] for number in selection.val), selection.report)


def select(
    datasets: Sequence[str],
    *,
    val_datasets: Sequence[str] = (),
    seed: int = 42,
    test_ratio: float = 0.01,
    names: Sequence[str] = (),
    authors: Sequence[str] = (),
    system: str = "",
    hubs: Mapping[HubName, DatasetHub] | None = None,
    mix: Mix | None = None,
    tick: Tick = lambda: None,
) -> Selection:
    """Read and check every data set of a run, and draw its rows; the same arguments give the same rows in that order.

    ``names`` and ``authors`` fill ``{{NAME}}`` and ``{{AUTHOR}}``: one value, or (Chinese, English). ``system`` goes in
    front of rows that have no system message. With ``val_datasets`` nothing is split off ``datasets``. Paths are
    absolute. ``mix`` makes self-cognition's rows from those drawn, and puts ``system`` in where it belongs.

    Raises INVALID_ARGUMENT, DATASET_NOT_FOUND, DATASET_UNREACHABLE, DATASET_EMPTY, DATASET_ROW_INVALID,
    PLACEHOLDER_SURVIVED or FILE_MISSING.
    """
    if not 0 <= test_ratio < 1:
        raise invalid("dataset_test_ratio", f"{test_ratio} is not in [0, 1).")
    if not datasets:
        raise FineryError(Reason.DATASET_EMPTY, "No data set was given: add --dataset NAME (for instance general-en).")
    hubs = hubs if hubs is not None else hubs_from(os.environ)
    fill = Identity.of(names, authors), system
    ratio = 0.0 if val_datasets else test_ratio
    drawn: list[_Drawn] = []
    for spec in _distinct(datasets, "dataset"):
        rng = random.Random(f"{seed}/{spec.name}/{spec.subset}")
        drawn.append(_draw(spec, _reader(locate(spec, hubs), *fill), ratio, rng, mix, tick))
    for spec in _distinct(val_datasets, "val_dataset"):
        rng = random.Random(f"{seed}/val/{spec.name}/{spec.subset}")
        reader = _reader(locate(spec, hubs), *fill)
        drawn.append(_for_validation(_draw(spec, reader, 0.0, rng, mix, tick, repeat=False)))
    return _shuffled(drawn, seed)


def read_conversations(spec: DatasetSpec, source: Source, identity: Identity) -> tuple[list[Conversation], int]:
    """Read all rows of one data set, and count those that were skipped."""
    skipped = Skipped()
    rows = list(_reader(source, identity, "").rows(skipped))
    _require_rows(spec, source, len(rows), skipped)
    return rows, skipped.count


def _reader(source: Source, identity: Identity, system: str) -> RowReader:
    return RowReader(source, tuple(data_files(source.path, source.subset)), identity, system)


def _draw(
    spec: DatasetSpec,
    reader: RowReader,
    ratio: float,
    rng: random.Random,
    mix: Mix | None,
    tick: Tick,
    *,
    repeat: bool = True,
) -> _Drawn:
    skipped = Skipped()
    available = sum(1 for _ in reader.rows(skipped, tick))
    _require_rows(spec, reader.source, available, skipped)
    count = spec.count if repeat or spec.count is None else min(spec.count, available)
    sample = draw(available, count, ratio, rng)
    report = _report(spec, sample, available, skipped)
    wanted, (train, val) = number_rows(available, sample.train, sample.val)
    part = FilePart(spec.text, reader, wanted)
    if mix is None or not _is_self_cognition(spec):
        return _Drawn(part, train, val, report)
    rows = tuple(replace(part, reader=replace(reader, system="")).rows())
    made, held_out = (tuple(mix([rows[number] for number in numbers], rng)) for numbers in (train, val))
    numbers = array("q", range(len(made) + len(held_out)))
    return _Drawn(MadePart(spec.text, made + held_out), numbers[: len(made)], numbers[len(made) :], report)


def _is_self_cognition(spec: DatasetSpec) -> bool:
    entry = registry.find(spec.name)
    return entry is not None and entry.name == "self-cognition" and spec.hub is None


def _for_validation(drawn: _Drawn) -> _Drawn:
    """What was drawn for training serves for validation."""
    report = replace(drawn.report, train=0, val=len(drawn.train), repeated=0, repeats=0, rest=0)
    return _Drawn(drawn.part, array("q"), drawn.train, report)


def _shuffled(drawn: Sequence[_Drawn], seed: int) -> Selection:
    train, val = array("q"), array("q")
    offset = 0
    for one in drawn:
        train.extend(number + offset for number in one.train)
        val.extend(number + offset for number in one.val)
        offset += len(one.part)
    rng = random.Random(seed)
    rng.shuffle(train)
    rng.shuffle(val)
    return Selection(tuple(one.part for one in drawn), train, val, tuple(one.report for one in drawn))


def _require_rows(spec: DatasetSpec, source: Source, rows: int, skipped: Skipped) -> None:
    if rows:
        return
    if skipped.first is not None:
        raise skipped.first
    raise FineryError(
        Reason.DATASET_EMPTY,
        f"The data set {spec.text!r} has no rows ({source.path}): check the file.",
        dataset=spec.text,
    )


def _distinct(datasets: Sequence[str], field: str) -> list[DatasetSpec]:
    specs = [parse(text) for text in datasets]
    keys = [(spec.hub, spec.name, spec.subset) for spec in specs]
    twice = next((spec for spec, key in zip(specs, keys, strict=True) if keys.count(key) > 1), None)
    if twice is not None:
        raise invalid(field, f"{twice.name} is given twice; give it once, with #N for the number of rows.")
    return specs


def _report(spec: DatasetSpec, sample: Sample, available: int, skipped: Skipped) -> DatasetReport:
    return DatasetReport(
        dataset=spec.text,
        available=available,
        skipped=skipped.count,
        train=len(sample.train),
        val=len(sample.val),
        repeated=sample.repeats + (1 if sample.rest else 0),
        repeats=sample.repeats,
        rest=sample.rest,
        problem=skipped.first.message if skipped.first else "",
    )
