import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from finery_quantizer.convert import recipe
from finery_quantizer.plan import ExportPlan
from finery_quantizer.planning import Planner
from finery_quantizer.request import DEFAULT_DATASETS, ExportRequest
from finery_quantizer.settings import QuantizerSettings
from finery_shared.artifacts import Kind, Manifest, hash_files, manifest_digest, write_manifest
from finery_shared.artifacts.manifest import READ_AT_ONCE
from finery_shared.errors import FineryError, Reason
from finery_shared.models import ModelSpec
from tests.unit.quantizer.models import publish_adapter, write_adapter, write_model

RECIPE: dict[str, object] = {"datasets": ["general-en#20"], "model_names": ["小黄", "Xiao Huang"]}


def anywhere(path: str | Path, field: str) -> Path:
    return Path(path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny-chat")


@pytest.fixture
def checkpoint(tmp_path: Path, base: Path) -> Path:
    adapter = write_adapter(tmp_path / "out" / "checkpoint-5", base)
    return publish_adapter(adapter, base, "tiny-chat", RECIPE)


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return Planner(tmp_path / "store", (), anywhere)


def both(checkpoint: Path | str, **changes: object) -> ExportRequest:
    return replace(ExportRequest(ckpt_dir=str(checkpoint), merge_lora=True, quant_bits=4), **changes)  # type: ignore[arg-type]


def refusal(planner: Planner, request: ExportRequest) -> FineryError:
    """The error of a request that is refused when it is made, and would be by a worker too."""
    with pytest.raises(FineryError) as at_once:
        planner.accept(request)
    with pytest.raises(FineryError) as later:
        planner.plan(request)
    assert (later.value.reason, later.value.metadata) == (at_once.value.reason, at_once.value.metadata)
    return at_once.value


def publish(plan: ExportPlan, path: Path, kind: Kind, parent: Path) -> None:
    """Stand in for what a job would have published at `path`."""
    shutil.copytree(plan.model, path)
    manifest = Manifest(
        kind=kind,
        model_type=plan.spec.model_type,
        base_model=str(plan.model),
        template="chatml",
        parent=str(parent),
        parent_manifest_sha256=manifest_digest(parent),
        job="exportJobs/x",
        recipe=recipe(plan.request),
        metrics={},
        files=hash_files(path),
    )
    write_manifest(path, manifest)


def test_one_job_merges_and_quantizes_beside_the_checkpoint(planner: Planner, checkpoint: Path, base: Path) -> None:
    plan = planner.plan(both(checkpoint))
    assert (plan.adapter, plan.model) == (checkpoint, base)
    assert plan.merged == checkpoint.with_name("checkpoint-5-merged")
    assert plan.quantized == checkpoint.with_name("checkpoint-5-merged-awq-int4")
    assert plan.work_dir == checkpoint.parent
    assert plan.request.datasets == ("general-en#20",)
    assert plan.recipe.model_names == ("小黄", "Xiao Huang")
    assert planner.plan(both(checkpoint, quant_bits=0)).quantized is None
    elsewhere = planner.plan(both(checkpoint, output_dir="/elsewhere"))
    assert elsewhere.merged == Path("/elsewhere/checkpoint-5-merged")


def test_a_model_is_quantized_as_it_is(planner: Planner, base: Path) -> None:
    plan = planner.plan(ExportRequest(model_id_or_path=str(base), quant_bits=4))
    assert plan.adapter is None
    assert plan.merged is None
    assert plan.quantized == base.with_name("tiny-chat-awq-int4")
    assert plan.request.datasets == ("general-zh", "general-en")


@pytest.mark.parametrize(
    ("changes", "reason", "remedy"),
    [
        ({"quant_bits": 8}, Reason.UNSUPPORTED, "4 (AWQ int4)"),
        ({"quant_method": "gptq"}, Reason.UNSUPPORTED, "there is: awq"),
        ({"merge_lora": False}, Reason.INVALID_ARGUMENT, "pass --merge_lora true as well"),
        ({"merge_lora": False, "quant_bits": 0}, Reason.INVALID_ARGUMENT, "nothing to do"),
        ({"ckpt_dir": ""}, Reason.INVALID_ARGUMENT, "say what"),
        ({"quant_n_samples": 0}, Reason.INVALID_ARGUMENT, "quant_n_samples"),
        ({"datasets": ("genral-zh",)}, Reason.DATASET_NOT_FOUND, "general-zh"),
        ({"datasets": ("/no/such.jsonl",)}, Reason.FILE_MISSING, "/no/such.jsonl"),
        ({"datasets": ("~/such.jsonl",)}, Reason.INVALID_ARGUMENT, "absolute"),
        ({"model_id_or_path": "../tiny-chat"}, Reason.INVALID_ARGUMENT, "absolute"),
        ({"ckpt_dir": "/no/such/dir"}, Reason.FILE_MISSING, "/no/such/dir"),
    ],
)
def test_bad_requests_are_refused_at_once(
    planner: Planner, checkpoint: Path, changes: dict[str, object], reason: Reason, remedy: str
) -> None:
    error = refusal(planner, both(checkpoint, **changes))
    assert error.reason is reason
    assert remedy in error.message


@pytest.fixture
def strict(tmp_path: Path) -> Planner:
    """A planner that may read `tmp_path` alone."""
    return Planner(tmp_path / "store", (), QuantizerSettings(home=tmp_path).check_path)


def test_only_allowed_directories_are_read(
    strict: Planner, checkpoint: Path, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "rows.jsonl").write_text('{"query": "q", "response": "r"}\n')
    shutil.copytree(base, elsewhere / "tiny-chat")
    outside = {"model_id_or_path": str(elsewhere / "tiny-chat")}
    assert refusal(strict, both(checkpoint, **outside)).reason is Reason.PATH_NOT_ALLOWED
    assert refusal(strict, ExportRequest(**outside, quant_bits=4)).reason is Reason.PATH_NOT_ALLOWED
    for name in (elsewhere / "rows.jsonl", elsewhere):
        error = refusal(strict, both(checkpoint, datasets=(f"{name}#5",)))
        assert (error.reason, error.metadata) == (Reason.PATH_NOT_ALLOWED, {"field": "datasets"})


def test_what_a_checkpoint_names_is_held_to_the_same_rule(
    strict: Planner, checkpoint: Path, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    rows = elsewhere / "rows.jsonl"
    rows.write_text('{"query": "q", "response": "r"}\n')
    publish_adapter(checkpoint, base, "tiny-chat", {"datasets": [str(rows)]})
    assert strict.plan(both(checkpoint)).request.datasets == DEFAULT_DATASETS
    shutil.copytree(base, elsewhere / "tiny-chat")
    publish_adapter(checkpoint, elsewhere / "tiny-chat", "tiny-chat", RECIPE)
    assert refusal(strict, both(checkpoint)).reason is Reason.PATH_NOT_ALLOWED


def test_a_checkpoint_without_manifest_and_one_with_a_wrong_checksum(planner: Planner, checkpoint: Path) -> None:
    file = checkpoint / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    error = refusal(planner, both(checkpoint))
    assert error.reason is Reason.DATA_LOSS
    assert str(file) in error.message
    (checkpoint / "manifest.json").unlink()
    error = refusal(planner, both(checkpoint))
    assert error.reason is Reason.MANIFEST_MISSING
    assert str(checkpoint) in error.message


@dataclass
class SlowHub:
    """A hub that gives one model, and remembers that it was asked."""

    model: Path
    name: str = "Slow"
    asked: list[str] = field(default_factory=list)

    def id_of(self, spec: ModelSpec) -> str | None:
        return spec.hf_id

    def cached(self, repo_id: str) -> Path | None:
        return None

    def holds(self, path: Path) -> bool:
        return path == self.model

    def check(self, repo_id: str) -> None:
        """It answers."""

    def download(self, repo_id: str) -> Path:
        self.asked.append(repo_id)
        return self.model


def test_weights_are_read_by_the_worker_alone(planner: Planner, checkpoint: Path, base: Path) -> None:
    weights = checkpoint / "more.safetensors"
    weights.write_bytes(bytes(READ_AT_ONCE + 1))
    publish_adapter(checkpoint, base, "tiny-chat", RECIPE)
    weights.write_bytes(bytes(READ_AT_ONCE) + b"x")
    accepted = planner.accept(both(checkpoint))
    assert accepted.work_dir == checkpoint.parent
    assert accepted.request.datasets == ("general-en#20",)
    with pytest.raises(FineryError, match=r"more\.safetensors") as caught:
        planner.plan(accepted.request)
    assert caught.value.reason is Reason.DATA_LOSS


def test_hubs_are_asked_by_the_worker_alone(tmp_path: Path, checkpoint: Path, base: Path) -> None:
    hub = SlowHub(base)
    planner = Planner(tmp_path / "store", (hub,), anywhere)
    publish_adapter(checkpoint, tmp_path / "moved", "smollm2-135m-instruct", {"datasets": ["owner/rows#9"]})
    for datasets in ((), ("owner/rows#9", "general-en#20")):
        accepted = planner.accept(both(checkpoint, datasets=datasets))
        assert accepted.request.datasets == datasets, "left to the worker"
        assert accepted.work_dir == checkpoint.parent
    request = both("", merge_lora=False, model_id_or_path="owner/model", output_dir=str(tmp_path / "out"))
    assert planner.accept(request).work_dir == tmp_path / "out"
    assert hub.asked == []
    with pytest.raises(FineryError, match="--output_dir"):
        planner.accept(both("", merge_lora=False, model_id_or_path="owner/model"))
    with pytest.raises(FineryError, match="genral-zh"):
        planner.accept(both(checkpoint, datasets=("owner/rows#9", "genral-zh")))
    assert planner.plan(replace(request, datasets=("general-en#20",))).model == base
    assert hub.asked == ["owner/model"]


def test_a_base_that_moved_is_asked_for_and_taken_from_where_it_is(
    planner: Planner, checkpoint: Path, base: Path, tmp_path: Path
) -> None:
    moved = base.rename(tmp_path / "moved")
    error = refusal(planner, both(checkpoint))
    assert str(base) in error.message
    assert "--model_id_or_path" in error.message
    assert planner.plan(both(checkpoint, model_id_or_path=str(moved))).model == moved


def test_what_is_there_and_right_is_used_again(planner: Planner, checkpoint: Path) -> None:
    plan = planner.plan(both(checkpoint))
    assert plan.merged
    assert plan.quantized
    publish(plan, plan.merged, Kind.MODEL, checkpoint)
    again = planner.plan(both(checkpoint))
    assert (again.reuse_merged, again.reuse_quantized) == (True, False)
    publish(again, plan.quantized, Kind.QUANTIZED_MODEL, plan.merged)
    again = planner.plan(both(checkpoint))
    assert (again.reuse_merged, again.reuse_quantized) == (True, True)
    error = refusal(planner, both(checkpoint, quant_n_samples=17))
    assert error.reason is Reason.OUTPUT_EXISTS
    assert "--exist_ok" in error.message
    replaced = planner.plan(both(checkpoint, quant_n_samples=17, exist_ok=True))
    assert (replaced.reuse_merged, replaced.reuse_quantized) == (True, False)


def test_what_is_there_and_was_made_from_something_else_is_not(planner: Planner, checkpoint: Path, base: Path) -> None:
    plan = planner.plan(both(checkpoint))
    assert plan.merged
    publish(plan, plan.merged, Kind.MODEL, checkpoint)
    publish_adapter(checkpoint, base, "tiny-chat", {**RECIPE, "seed": 7})  # trained again in the same place
    assert refusal(planner, both(checkpoint)).reason is Reason.OUTPUT_EXISTS
    assert not planner.plan(both(checkpoint, exist_ok=True)).reuse_merged


def test_a_merged_checkpoint_is_quantized_and_a_quantized_one_refused(planner: Planner, checkpoint: Path) -> None:
    plan = planner.plan(both(checkpoint))
    assert plan.merged
    assert plan.quantized
    publish(plan, plan.merged, Kind.MODEL, checkpoint)
    alone = planner.plan(both(plan.merged, merge_lora=False))
    assert alone.model == plan.merged
    assert alone.quantized == plan.quantized
    assert refusal(planner, both(plan.merged, quant_bits=0)).reason is Reason.INVALID_ARGUMENT
    publish(plan, plan.quantized, Kind.QUANTIZED_MODEL, plan.merged)
    assert "quantized already" in refusal(planner, both(plan.quantized)).message


def test_sizes_without_a_group_size_are_unsupported(planner: Planner, base: Path) -> None:
    import json

    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"intermediate_size": 100}))
    error = refusal(planner, ExportRequest(model_id_or_path=str(base), quant_bits=4))
    assert error.reason is Reason.UNSUPPORTED
    assert "100" in error.message
