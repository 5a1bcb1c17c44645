"""``--dataset``, from arguments to conversations: located, read, filled, checked, split, drawn, shuffled."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finery_shared.datasets.conversation import Conversation, Turn, language_of
from finery_shared.datasets.files import RawRow, read_rows, row_error
from finery_shared.datasets.formats import RowProblem, to_turns
from finery_shared.datasets.grammar import DatasetSpec, HubName, parse
from finery_shared.datasets.hubs import DatasetHub, hubs_from
from finery_shared.datasets.identity import FLAGS, Identity, surviving_placeholder
from finery_shared.datasets.sampling import Sample, draw
from finery_shared.datasets.source import Source, locate
from finery_shared.errors import FineryError, Reason, invalid


@dataclass(frozen=True)
class DatasetReport:
    """What one ``--dataset`` argument gave: rows read, rows skipped (only a hub's), rows for training and validation.

    ``repeated`` says how often the most frequent training row occurs.
    """

    dataset: str
    available: int
    skipped: int
    train: int
    val: int
    repeated: int


@dataclass(frozen=True)
class LoadedDatasets:
    """Shuffled conversations for training and validation, and where they came from."""

    train: tuple[Conversation, ...]
    val: tuple[Conversation, ...]
    report: tuple[DatasetReport, ...]


def load(
    datasets: Sequence[str],
    *,
    seed: int = 42,
    test_ratio: float = 0.01,
    names: Sequence[str] = (),
    authors: Sequence[str] = (),
    system: str = "",
    base_dir: Path | None = None,
    hubs: Mapping[HubName, DatasetHub] | None = None,
) -> LoadedDatasets:
    """Load every data set of a run; the same arguments give the same rows in the same order.

    ``names`` and ``authors`` fill ``{{NAME}}`` and ``{{AUTHOR}}``: one value, or (Chinese, English). ``system`` goes in
    front of rows that have no system message. Relative paths start at ``base_dir`` (default: the working directory).

    Raises INVALID_ARGUMENT, DATASET_NOT_FOUND, DATASET_UNREACHABLE, DATASET_EMPTY, DATASET_ROW_INVALID,
    PLACEHOLDER_SURVIVED or FILE_MISSING.
    """
    if not 0 <= test_ratio < 1:
        raise invalid("dataset_test_ratio", f"{test_ratio} is not in [0, 1).")
    if not datasets:
        raise FineryError(Reason.DATASET_EMPTY, "No data set was given: add --dataset NAME (for instance general-en).")
    identity = Identity.of(names, authors)
    places = base_dir or Path.cwd(), hubs if hubs is not None else hubs_from(os.environ)
    train: list[Conversation] = []
    val: list[Conversation] = []
    report: list[DatasetReport] = []
    for spec in _distinct(datasets):
        rows, skipped = read_conversations(spec, locate(spec, *places), identity)
        rows = [row.with_system(system) for row in rows]
        sample = draw(rows, spec.count, test_ratio, random.Random(f"{seed}/{spec.name}/{spec.subset}"))
        train += sample.train
        val += sample.val
        report.append(_report(spec, sample, len(rows), skipped))
    rng = random.Random(seed)
    rng.shuffle(train)
    rng.shuffle(val)
    return LoadedDatasets(tuple(train), tuple(val), tuple(report))


def read_conversations(spec: DatasetSpec, source: Source, identity: Identity) -> tuple[list[Conversation], int]:
    """Read all rows of one data set, and count those that were skipped.

    A row that can't be used is an error, except in a hub's data set, where it is skipped as long as others are good.
    """
    rows: list[Conversation] = []
    problems: list[FineryError] = []
    for raw in read_rows(source.path, source.subset):
        try:
            rows.append(_conversation(raw, identity))
        except RowProblem as problem:
            error = row_error(raw.file, raw.place, str(problem))
            if source.trusted:
                raise error from problem
            problems.append(error)
    if not rows and problems:
        raise problems[0]
    if not rows:
        raise FineryError(
            Reason.DATASET_EMPTY,
            f"The data set {spec.text!r} has no rows ({source.path}): check the file.",
            dataset=spec.text,
        )
    return rows, len(problems)


def _distinct(datasets: Sequence[str]) -> list[DatasetSpec]:
    specs = [parse(text) for text in datasets]
    keys = [(spec.hub, spec.name, spec.subset) for spec in specs]
    twice = next((spec for spec, key in zip(specs, keys, strict=True) if keys.count(key) > 1), None)
    if twice is not None:
        raise invalid("dataset", f"{twice.name} is given twice; give it once, with #N for the number of rows.")
    return specs


def _conversation(raw: RawRow, identity: Identity) -> Conversation:
    turns = to_turns(raw.fields)
    row_lang = raw.fields.get("lang")
    origin = f"{raw.file.name}, {raw.place}"
    filled = tuple(_fill(turn, row_lang, identity, origin) for turn in turns)
    lang = row_lang if row_lang in ("zh", "en") else language_of(turns[-1].content)
    tag = raw.fields.get("tag")
    return Conversation(tuple(turn.message() for turn in filled), lang, tag if isinstance(tag, str) else "", origin)


def _fill(turn: Turn, row_lang: object, identity: Identity, origin: str) -> Turn:
    declared = turn.lang or row_lang
    lang = "zh" if declared == "zh" else "en" if declared == "en" else language_of(turn.content)
    text = identity.fill(turn.content, lang)
    survivor = surviving_placeholder(text)
    if survivor is not None:
        flag = FLAGS.get(survivor.strip("{} "))
        remedy = f"give its value with {flag}" if flag else "only {{NAME}} and {{AUTHOR}} are filled; remove it"
        raise FineryError(
            Reason.PLACEHOLDER_SURVIVED,
            f"{origin}: the placeholder {survivor} would be learned as it stands: {remedy}.",
            placeholder=survivor,
            place=origin,
        )
    return Turn(turn.role, text, turn.lang)


def _report(spec: DatasetSpec, sample: Sample[Conversation], available: int, skipped: int) -> DatasetReport:
    unique = available - len(sample.val)
    repeated = -(-len(sample.train) // unique) if unique else 0
    return DatasetReport(spec.text, available, skipped, len(sample.train), len(sample.val), repeated)
