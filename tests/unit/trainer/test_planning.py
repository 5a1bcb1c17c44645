"""Requests are refused at once, with the field or the file, before anything is written."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finery_shared.datasets import Conversation
from finery_shared.errors import FineryError, Reason
from finery_shared.models import ModelSpec
from finery_trainer.bootstrap import make_planner
from finery_trainer.planning import Planner
from finery_trainer.settings import TrainerSettings
from tests.unit.trainer.directories import write_small_files


@pytest.fixture
def planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    for name in ("FINERY_MODEL_STORE", "HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return make_planner(TrainerSettings(home=tmp_path / "home", allowed_roots=(tmp_path,)))


@pytest.fixture
def request_(tmp_path: Path) -> dict[str, Any]:
    return {
        "model_type": "",
        "model_id_or_path": str(write_small_files(tmp_path / "my-chat")),
        "datasets": ("general-en",),
        "model_names": (),
        "model_authors": (),
        "output_dir": str(tmp_path / "output"),
    }


def refused(planner: Planner, given: dict[str, Any]) -> FineryError:
    with pytest.raises(FineryError) as caught:
        planner.accept(given)
    return caught.value


def test_a_local_directory_alone_is_enough(planner: Planner, request_: dict[str, Any], tmp_path: Path) -> None:
    plan = planner.plan(request_)
    assert plan.spec == planner.accept(request_)
    assert plan.model.path == tmp_path / "my-chat"
    assert plan.spec.model_type == "my-chat"
    assert plan.target_modules == ("q_proj", "k_proj", "v_proj")
    assert not plan.spec.teaches_identity
    assert not (tmp_path / "output").exists()


def test_a_filled_request_gives_the_same_plan(planner: Planner, request_: dict[str, Any]) -> None:
    given = {**request_, "lora_target_modules": ("ALL",)}
    plan = planner.plan(planner.accept(given).model_dump())
    assert planner.plan(given) == plan
    assert len(plan.target_modules) == 7


def test_the_store_serves_a_registered_model(planner: Planner, request_: dict[str, Any], tmp_path: Path) -> None:
    stored = write_small_files(tmp_path / "home" / "models" / "smollm2-135m-instruct")
    given = {**request_, "model_type": "smollm2-135m-instruct", "model_id_or_path": ""}
    plan = planner.plan(given)
    assert plan.model.path == stored
    assert plan.spec.learning_rate == plan.model.spec.recipe.learning_rate


def test_self_cognition_teaches_an_identity(planner: Planner, request_: dict[str, Any]) -> None:
    named = {**request_, "datasets": ("self_cognition#9", "general-en"), "model_names": ("N",), "model_authors": ("A",)}
    assert planner.accept(named).teaches_identity


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (
            {"model_type": "smollm-135m-instruct", "model_id_or_path": ""},
            Reason.MODEL_NOT_FOUND,
            "smollm2-135m-instruct",
        ),
        ({"model_type": "", "model_id_or_path": ""}, Reason.INVALID_ARGUMENT, "--model_type"),
        ({"model_id_or_path": "/nowhere/at/all"}, Reason.PATH_NOT_ALLOWED, "FINERY_TRAINER_ALLOWED_ROOTS"),
        ({"model_id_or_path": "~/my-chat"}, Reason.INVALID_ARGUMENT, "absolute"),
        ({"model_id_or_path": "../my-chat"}, Reason.INVALID_ARGUMENT, "absolute"),
        ({"datasets": ("etc/rows.jsonl",)}, Reason.INVALID_ARGUMENT, "absolute"),
        ({"datasets": ("self-cognitoin",)}, Reason.DATASET_NOT_FOUND, "self-cognition"),
        ({"datasets": ()}, Reason.INVALID_ARGUMENT, "--dataset"),
        ({"datasets": ("general-en#0",)}, Reason.INVALID_ARGUMENT, "general-en#0"),
        ({"datasets": ("/etc/hostname.jsonl",)}, Reason.FILE_MISSING, "/etc/hostname.jsonl"),
        ({"datasets": ("self-cognition",)}, Reason.PLACEHOLDER_SURVIVED, "--model_name"),
        ({"datasets": ("self-cognition",), "model_names": ("N",)}, Reason.PLACEHOLDER_SURVIVED, "--model_author"),
        ({"output_dir": "/nowhere/out"}, Reason.PATH_NOT_ALLOWED, "FINERY_TRAINER_ALLOWED_ROOTS"),
        ({"output_dir": "out"}, Reason.INVALID_ARGUMENT, "absolute"),
        ({"output_dir": ""}, Reason.INVALID_ARGUMENT, "--output_dir"),
        ({"resume_from_checkpoint": "/nowhere/checkpoint-1"}, Reason.PATH_NOT_ALLOWED, "FINERY_TRAINER_ALLOWED_ROOTS"),
        ({"deepspeed": "/nowhere/ds.json"}, Reason.PATH_NOT_ALLOWED, "FINERY_TRAINER_ALLOWED_ROOTS"),
        ({"deepspeed": "zero2"}, Reason.INVALID_ARGUMENT, "default-zero2"),
        ({"nproc_per_node": 1000}, Reason.UNSUPPORTED, "Lower --nproc_per_node"),
        ({"lora_target_modules": ("q_prj",)}, Reason.INVALID_ARGUMENT, "q_proj"),
        ({"batch_size": 0}, Reason.INVALID_ARGUMENT, "batch_size"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(
    planner: Planner, request_: dict[str, Any], change: dict[str, Any], reason: Reason, words: str
) -> None:
    error = refused(planner, {**request_, **change})
    assert error.reason is reason
    assert words in error.message


def test_a_row_that_is_not_recognised_is_named_with_its_line(
    planner: Planner, request_: dict[str, Any], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text(json.dumps(good) + "\n" + json.dumps({"prompt_text": "a"}) + "\n")
    error = refused(planner, {**request_, "datasets": (str(rows),)})
    assert error.reason is Reason.DATASET_ROW_INVALID
    assert f"{rows}, line 2" in error.message


def test_validation_data_are_checked_like_training_data(
    planner: Planner, request_: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    rows, elsewhere = tmp_path / "rows.jsonl", tmp_path_factory.mktemp("elsewhere") / "rows.jsonl"
    rows.write_text('{"query": "q", "response": "a"}\n' * 3)
    elsewhere.write_text(rows.read_text())
    error = refused(planner, {**request_, "val_datasets": (str(elsewhere),)})
    assert (error.reason, error.metadata["field"]) == (Reason.PATH_NOT_ALLOWED, "val_dataset")
    spec = planner.accept({**request_, "val_datasets": (str(rows),), "dataset_test_ratio": 0.5})
    selection = planner.load_data(spec).selection
    assert (len(selection.val), selection.report[0].val, selection.report[0].train) == (3, 0, 133)
    rows.write_text('{"query": "q"}\n')
    assert "rows.jsonl, line 1" in refused(planner, {**request_, "val_datasets": (str(rows),)}).message


def rows_to_train_on(planner: Planner, given: dict[str, Any]) -> list[Conversation]:
    selection = planner.load_data(planner.accept(given)).selection
    rows = list(selection.rows())
    return [rows[number] for number in selection.train]


def test_the_seed_says_which_rows_are_drawn(planner: Planner, request_: dict[str, Any]) -> None:
    given = {**request_, "datasets": ("general-en#40",)}
    first, again, other = (rows_to_train_on(planner, {**given, "dataset_seed": seed}) for seed in (1, 1, 2))
    assert first == again
    assert {row.origin for row in first} != {row.origin for row in other}


def test_the_ratio_says_how_many_rows_are_evaluated_on(planner: Planner, request_: dict[str, Any]) -> None:
    spec = planner.accept({**request_, "datasets": ("general-en#40",), "dataset_test_ratio": 0.5})
    selection = planner.load_data(spec).selection
    assert (len(selection.train), len(selection.val)) == (20, 20)


def test_the_identity_is_learned_under_many_system_prompts_and_among_other_turns(
    planner: Planner, request_: dict[str, Any]
) -> None:
    given = {"datasets": ("self-cognition#200", "general-en#20"), "system": "S", "dataset_test_ratio": 0.0}
    rows = rows_to_train_on(planner, {**request_, **given, "model_names": ("N",), "model_authors": ("A",)})
    identity = [row for row in rows if row.tag in ("identity", "contrast")]
    systems = Counter(row.messages[0]["content"] for row in identity)
    assert len(identity) > 150
    assert systems["S"] > 100
    assert systems[""] > 5
    assert len(systems) > 5
    assert sum(len(row.messages) > 3 for row in identity) > 30
    assert {row.messages[0]["content"] for row in rows if not row.tag} == {"S"}


def test_reading_can_be_ended(planner: Planner, request_: dict[str, Any]) -> None:
    read = []

    def tick() -> None:
        read.append(1)
        if len(read) == 5:
            raise KeyboardInterrupt

    spec = planner.accept(request_)
    with pytest.raises(KeyboardInterrupt):
        planner.load_data(spec, tick)
    assert len(read) == 5


def test_large_files_are_left_to_the_worker(request_: dict[str, Any], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("not json\n")
    settings = TrainerSettings(home=tmp_path / "home", allowed_roots=(tmp_path,), checked_at_once=5)
    spec = make_planner(settings).accept({**request_, "datasets": (str(rows),)})
    with pytest.raises(FineryError, match="line 1"):
        make_planner(settings).load_data(spec)


class Hub:
    """A hub, for models and data sets, that has nothing; it may answer nevertheless."""

    name = "Hub"

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self.asked: list[str] = []

    def id_of(self, spec: ModelSpec) -> str | None:
        return spec.hf_id

    def holds(self, path: Path) -> bool:
        return False

    def cached(self, repo_id: str) -> Path | None:
        return None

    def check(self, name: str) -> None:
        if not self._answers:
            raise FineryError(Reason.MODEL_UNREACHABLE, f"{name} is out of reach.")

    def download(self, repo_id: str) -> Path:
        self.asked.append(repo_id)
        raise FineryError(Reason.MODEL_UNREACHABLE, f"There is no {repo_id}.")

    def fetch(self, dataset_id: str) -> Path:
        self.asked.append(dataset_id)
        raise FineryError(Reason.DATASET_UNREACHABLE, f"There is no {dataset_id}.")


def planner_with(hub: Hub, root: Path) -> Planner:
    return Planner(root / "models", [hub], {"HF": hub}, lambda path, _: Path(path), 2**20, root / "cache")


def test_what_a_hub_has_is_fetched_by_the_worker_alone(request_: dict[str, Any], tmp_path: Path) -> None:
    hub = Hub(answers=True)
    planner = planner_with(hub, tmp_path)
    given = {**request_, "model_type": "qwen1half-7b-chat", "model_id_or_path": "", "datasets": ("alpaca-en#5",)}
    spec = planner.accept(given)
    assert (spec.model_type, spec.learning_rate, hub.asked) == ("qwen1half-7b-chat", 1e-4, [])
    with pytest.raises(FineryError, match="--model_id_or_path"):
        planner.plan(spec.model_dump())
    with pytest.raises(FineryError, match="There is no vicgalle"):
        planner.load_data(spec)
    assert hub.asked == ["Qwen/Qwen1.5-7B-Chat", "vicgalle/alpaca-gpt4"]


def test_a_hub_that_does_not_answer_is_told_at_once(request_: dict[str, Any], tmp_path: Path) -> None:
    planner = planner_with(Hub(answers=False), tmp_path)
    unknown = {**request_, "model_type": "qwen1half-7b-chat", "model_id_or_path": ""}
    assert "--model_id_or_path" in refused(planner, unknown).message
    rows = {**request_, "datasets": ("general-en", "alpaca-en#5")}
    assert refused(planner, rows).message == "vicgalle/alpaca-gpt4 is out of reach."
    assert not (tmp_path / "output").exists()


def test_data_outside_the_allowed_directories_is_refused(
    planner: Planner, request_: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = tmp_path_factory.mktemp("elsewhere") / "rows.jsonl"
    rows.write_text("{}\n")
    error = refused(planner, {**request_, "datasets": (str(rows),)})
    assert (error.reason, error.metadata["field"]) == (Reason.PATH_NOT_ALLOWED, "dataset")


def test_a_quantized_model_is_not_trained(planner: Planner, request_: dict[str, Any], tmp_path: Path) -> None:
    path = write_small_files(tmp_path / "my-awq", quantization_config={"quant_method": "awq", "bits": 4})
    error = refused(planner, {**request_, "model_id_or_path": str(path)})
    assert (error.reason, error.metadata["field"]) == (Reason.UNSUPPORTED, "model_type")


def test_a_directory_without_a_manifest_is_not_gone_on_from(planner: Planner, request_: dict[str, Any]) -> None:
    error = refused(planner, {**request_, "resume_from_checkpoint": request_["model_id_or_path"]})
    assert error.reason is Reason.MANIFEST_MISSING


def test_an_output_directory_below_a_file_is_refused(
    planner: Planner, request_: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    error = refused(planner, {**request_, "output_dir": str(tmp_path / "file" / "out")})
    assert "is a file" in error.message
