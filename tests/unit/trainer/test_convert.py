"""Messages to the domain and back."""

from typing import Any

from finery.artifacts.v1.artifacts_pb2 import Artifact, Devices, ModelSource
from finery.trainer.v1 import trainer_pb2 as pb
from finery_shared.jobs.publication import Published
from finery_shared.models import Recipe
from finery_trainer.convert import given, to_output, to_spec
from finery_trainer.spec import fill

FULL = pb.TrainingSpec(
    model=ModelSource(model_type="smollm2-135m-instruct", model_id_or_path="/models/x"),
    datasets=["general-en#5", "/data/rows.jsonl"],
    dataset_test_ratio=0.25,
    dataset_seed=7,
    model_names=["小黄", "Xiao Huang"],
    model_authors=["魔搭", "ModelScope"],
    system="Be brief.",
    max_length=99,
    output_dir="/out",
    lora=pb.LoraSpec(rank=4, alpha=6.5, dropout=0.5, target_modules=["ALL"], use_rslora=True, use_dora=True),
    optimization=pb.OptimizationSpec(
        learning_rate=0.5,
        num_train_epochs=2.5,
        max_steps=11,
        batch_size=3,
        gradient_accumulation_steps=2,
        weight_decay=0.25,
        warmup_ratio=0.125,
        max_grad_norm=2.0,
        lr_scheduler_type="linear",
        adam_beta1=0.5,
        adam_beta2=0.75,
        neftune_noise_alpha=5.0,
    ),
    schedule=pb.ScheduleSpec(
        eval_steps=1, save_steps=2, save_total_limit=3, logging_steps=4, early_stopping_patience=5
    ),
    seed=5,
    dtype="fp32",
    devices=Devices(cuda_visible_devices="0,1", nproc_per_node=2),
    val_datasets=["general-zh#3"],
    truncation_strategy="truncation_left",
    sft_type="full",
    resume_from_checkpoint="/out/checkpoint-5",
    base_precision="fp8",
    deepspeed="default-zero2",
)


def test_every_field_survives_the_way_there_and_back() -> None:
    assert to_spec(fill(given(FULL), Recipe())) == FULL
    unset = [f.name for f in pb.TrainingSpec.DESCRIPTOR.fields if f.name not in {n.name for n, _ in FULL.ListFields()}]
    assert unset == []


def test_what_is_not_set_is_not_given() -> None:
    values = given(pb.TrainingSpec(datasets=["general-en"], output_dir="/out"))
    assert set(values) == {
        "model_type",
        "model_id_or_path",
        "datasets",
        "val_datasets",
        "resume_from_checkpoint",
        "deepspeed",
        "model_names",
        "model_authors",
        "output_dir",
    }


def test_zero_is_a_value_and_not_a_default() -> None:
    spec = pb.TrainingSpec(lora=pb.LoraSpec(dropout=0.0), dataset_test_ratio=0.0, seed=0)
    values = given(spec)
    assert (values["lora_dropout"], values["dataset_test_ratio"], values["seed"]) == (0.0, 0.0, 0)


def test_no_number_of_ranks_leaves_the_default() -> None:
    assert given(pb.TrainingSpec(devices=Devices(nproc_per_node=2)))["nproc_per_node"] == 2
    assert "nproc_per_node" not in given(pb.TrainingSpec(devices=Devices(nproc_per_node=0)))


def _published(role: str, uri: str, **metrics: Any) -> Published:
    return Published(role, Artifact(uri=uri, metrics=metrics))


def test_one_checkpoint_is_the_best_and_the_last() -> None:
    output = to_output([_published("best_checkpoint", "file:///a", eval_loss=0.5)], {"train_loss": 1.0})
    assert output.best_checkpoint.uri == output.last_checkpoint.uri == "file:///a"
    assert output.best_metric == 0.5
    assert dict(output.figures) == {"train_loss": 1.0}


def test_two_checkpoints_keep_their_roles() -> None:
    published = [_published("best_checkpoint", "file:///a"), _published("last_checkpoint", "file:///b")]
    output = to_output(published, {})
    assert (output.best_checkpoint.uri, output.last_checkpoint.uri) == ("file:///a", "file:///b")
    assert not output.HasField("best_metric")


def test_a_cancelled_job_has_the_checkpoint_it_kept() -> None:
    output = to_output([_published("last_checkpoint", "file:///a")], {})
    assert output.best_checkpoint.uri == "file:///a"
