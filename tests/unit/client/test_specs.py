from collections.abc import Mapping
from pathlib import Path

import pytest

from finery.artifacts.v1.artifacts_pb2 import Devices
from finery_client.arguments import DeployArguments, ExportArguments, SftArguments
from finery_client.specs import Surroundings, adapter_spec, deployment_spec, export_spec, training_spec
from finery_shared.errors import FineryError, Reason

CWD = Path("/somewhere")


def here(env: Mapping[str, str] | None = None) -> Surroundings:
    return Surroundings(CWD, env or {})


def sft(**values: object) -> SftArguments:
    return SftArguments(**({"model_type": "m", "dataset": ("self-cognition#500",)} | values))  # type: ignore[arg-type]


def test_what_is_left_out_stays_unset():
    spec = training_spec(sft(), here())
    assert not spec.HasField("max_length")
    assert not spec.HasField("seed")
    assert not spec.HasField("system")
    assert not spec.optimization.HasField("learning_rate")
    assert not spec.lora.HasField("rank")
    assert not spec.devices.HasField("cuda_visible_devices")
    assert spec.devices.nproc_per_node == 0
    assert spec.output_dir == "/somewhere/output"


def test_what_is_given_arrives():
    arguments = sft(
        dataset=("a#5", "rows.jsonl"),
        model_name=("小黄", "Xiao Huang"),
        model_author=("魔搭",),
        learning_rate=1e-4,
        lora_dropout=0.0,
        lora_target_modules=("ALL",),
        batch_size=2,
        system="",
        seed=7,
        output_dir="out",
    )
    spec = training_spec(arguments, here())
    assert list(spec.datasets) == ["a#5", "/somewhere/rows.jsonl"]
    assert list(spec.model_names) == ["小黄", "Xiao Huang"]
    assert list(spec.model_authors) == ["魔搭"]
    assert spec.optimization.learning_rate == 1e-4
    assert spec.lora.HasField("dropout")
    assert spec.lora.dropout == 0.0
    assert spec.optimization.batch_size == 2
    assert spec.HasField("system")
    assert spec.seed == 7
    assert spec.output_dir == "/somewhere/out"


def test_the_environment_says_which_devices():
    env = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "NPROC_PER_NODE": "4"}
    expected = Devices(cuda_visible_devices="0,1,2,3", nproc_per_node=4)
    assert training_spec(sft(), here(env)).devices == expected
    assert export_spec(ExportArguments(ckpt_dir="c", quant_bits=4), here(env)).devices == expected


def test_an_empty_list_of_devices_is_not_the_same_as_none():
    devices = here({"CUDA_VISIBLE_DEVICES": ""}).devices()
    assert devices.HasField("cuda_visible_devices")
    assert devices.cuda_visible_devices == ""


def test_export_and_deploy():
    export = export_spec(ExportArguments(ckpt_dir="c/checkpoint-1", quant_bits=4, merge_lora=True), here())
    assert (export.ckpt_dir, export.quant_bits, export.quant_method, export.merge_lora) == (
        "/somewhere/c/checkpoint-1",
        4,
        "awq",
        True,
    )
    assert export_spec(ExportArguments(ckpt_dir="c", merge_lora=True), here()).quant_method == ""
    deploy = deployment_spec(DeployArguments(ckpt_dir="c", max_model_len=4096), here())
    assert (deploy.ckpt_dir, deploy.max_model_len, deploy.infer_backend) == ("/somewhere/c", 4096, "vllm")


def test_everything_about_the_engine_arrives():
    arguments = DeployArguments(
        ckpt_dir="c",
        infer_backend="transformers",
        served_model_name="mine",
        max_model_len=512,
        dtype="float16",
        gpu_memory_utilization=0.5,
        tensor_parallel_size=2,
        engine_args=("max_num_seqs=64", "enable-prefix-caching=false", "kv_cache_dtype=fp8", "quantization=null"),
    )
    spec = deployment_spec(arguments, here())
    assert (spec.infer_backend, spec.served_model_name, spec.dtype) == ("transformers", "mine", "float16")
    assert (spec.max_model_len, spec.gpu_memory_utilization, spec.tensor_parallel_size) == (512, 0.5, 2)
    assert dict(spec.engine_args) == {
        "max_num_seqs": "64",
        "enable_prefix_caching": "false",
        "kv_cache_dtype": '"fp8"',
        "quantization": "null",
    }


def test_room_for_adapters_is_asked_for_by_name():
    assert not deployment_spec(DeployArguments(ckpt_dir="c"), here()).HasField("enable_lora")
    spec = deployment_spec(DeployArguments(ckpt_dir="c", enable_lora=True, max_loras=2, max_lora_rank=8), here())
    assert (spec.enable_lora, spec.max_loras, spec.max_lora_rank) == (True, 2, 8)
    adapter = adapter_spec("out/checkpoint-93", "tuned", here())
    assert (adapter.ckpt_dir, adapter.served_model_name) == ("/somewhere/out/checkpoint-93", "tuned")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: deployment_spec(DeployArguments(ckpt_dir="c", engine_args=("max_num_seqs",)), here()), "NAME=VALUE"),
        (lambda: deployment_spec(DeployArguments(ckpt_dir="c", engine_args=("a=1", "a=2")), here()), "given twice"),
        (lambda: training_spec(SftArguments(dataset=("a",)), here()), "--model_type"),
        (lambda: training_spec(SftArguments(model_type="m"), here()), "--dataset"),
        (lambda: training_spec(sft(model_name=("a", "b", "c")), here()), "quote"),
        (lambda: training_spec(sft(batch_size=-1), here()), "batch_size"),
        (lambda: training_spec(sft(), here({"NPROC_PER_NODE": "two"})), "NPROC_PER_NODE"),
        (lambda: export_spec(ExportArguments(ckpt_dir="c"), here()), "--quant_bits 4"),
        (lambda: export_spec(ExportArguments(quant_bits=4), here()), "--ckpt_dir"),
        (lambda: deployment_spec(DeployArguments(), here()), "--ckpt_dir"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_starts(make, said: str):
    with pytest.raises(FineryError) as refused:
        make()
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    assert said in refused.value.message


def test_deepspeed_is_a_name_of_the_trainers_or_a_file_of_the_callers():
    assert training_spec(sft(deepspeed="default-zero2"), here()).deepspeed == "default-zero2"
    assert training_spec(sft(deepspeed="zero.json"), here()).deepspeed == f"{here().cwd}/zero.json"
