import dataclasses
from typing import get_type_hints

import pytest

from finery_client.arguments import DeployArguments, ExportArguments, InferArguments, SftArguments
from finery_client.cli.commands import (
    AdaptersCommand,
    CancelJob,
    CreateAdapter,
    DeleteAdapter,
    JobsCommand,
    ListAdapters,
    ListJobs,
    ModelsCommand,
    ShowJob,
    UpArguments,
    WatchJob,
    parse,
)
from finery_client.options import DeployOptions, ExportOptions, SftOptions

SFT = [
    "sft",
    *("--model_type", "qwen1half-7b-chat"),
    *("--dataset", "alpaca-zh#500", "alpaca-en#500", "self-cognition#500"),
    *("--max_length", "2048"),
    *("--learning_rate", "1e-4"),
    *("--output_dir", "output"),
    *("--lora_target_modules", "ALL"),
    *("--model_name", "小黄", "Xiao Huang"),
    *("--model_author", "魔搭", "ModelScope"),
]
SFT_PARSED = SftArguments(
    model_type="qwen1half-7b-chat",
    dataset=("alpaca-zh#500", "alpaca-en#500", "self-cognition#500"),
    max_length=2048,
    learning_rate=1e-4,
    output_dir="output",
    lora_target_modules=("ALL",),
    model_name=("小黄", "Xiao Huang"),
    model_author=("魔搭", "ModelScope"),
)
CHECKPOINT = "output/qwen1half-7b-chat/vx-xxx/checkpoint-xxx"


def test_the_guides_sft():
    assert parse(SFT) == SFT_PARSED


def test_the_guides_distributed_sft():
    assert parse([*SFT, "--deepspeed", "default-zero2"]) == dataclasses.replace(SFT_PARSED, deepspeed="default-zero2")


def test_the_guides_export():
    words = ["export", "--ckpt_dir", CHECKPOINT, "--quant_bits", "4", "--quant_method", "awq", "--merge_lora", "true"]
    assert parse(words) == ExportArguments(ckpt_dir=CHECKPOINT, quant_bits=4, quant_method="awq", merge_lora=True)


def test_the_guides_deploy():
    words = ["deploy", "--ckpt_dir", f"{CHECKPOINT}-merged-awq-int4", "--infer_backend", "vllm"]
    expected = DeployArguments(ckpt_dir=f"{CHECKPOINT}-merged-awq-int4", infer_backend="vllm", max_model_len=4096)
    assert parse([*words, "--max_model_len", "4096"]) == expected


def test_a_deployment_for_adapters():
    words = ["deploy", "--model_type", "m", "--enable_lora", "true", "--max_loras", "2", "--max_lora_rank", "8"]
    assert parse(words) == DeployArguments(model_type="m", enable_lora=True, max_loras=2, max_lora_rank=8)


def test_the_guides_infer():
    plain = ["infer", "--model_type", "qwen1half-72b-chat", "--infer_backend", "vllm", "--tensor_parallel_size", "4"]
    assert parse(plain) == InferArguments(model_type="qwen1half-72b-chat", infer_backend="vllm", tensor_parallel_size=4)
    tuned = ["infer", "--ckpt_dir", CHECKPOINT, "--tensor_parallel_size", "4", "--merge_lora", "true"]
    assert parse(tuned) == InferArguments(ckpt_dir=CHECKPOINT, tensor_parallel_size=4, merge_lora=True)


@pytest.mark.parametrize("flag", ["--merge_lora", "--merge-lora"])
@pytest.mark.parametrize(
    ("words", "expected"), [([], True), (["true"], True), (["True"], True), (["false"], False), (["0"], False)]
)
def test_switches_are_bare_or_say_which(flag: str, words: list[str], expected: bool):
    for rest in ([], ["--quant_bits", "4"]):
        command = parse(["export", flag, *words, *rest])
        assert isinstance(command, ExportArguments)
        assert command.merge_lora is expected


def test_dashes_are_underscores():
    assert parse([word.replace("_", "-") if word.startswith("--") else word for word in SFT]) == SFT_PARSED


def test_other_commands():
    assert parse(["up"]) == UpArguments()
    assert parse(["up", "--inference_processes", "2"]) == UpArguments(inference_processes=2)
    assert parse(["models"]) == ModelsCommand()
    assert parse(["jobs", "list"]) == JobsCommand(ListJobs())
    assert parse(["jobs", "show", "trainingJobs/1"]) == JobsCommand(ShowJob("trainingJobs/1"))
    assert parse(["jobs", "watch", "exportJobs/1"]) == JobsCommand(WatchJob("exportJobs/1"))
    created = CreateAdapter(deployment="m", ckpt_dir="out/checkpoint-93", served_model_name="tuned")
    words = ["--deployment", "m", "--ckpt_dir", "out/checkpoint-93", "--served_model_name", "tuned"]
    assert parse(["adapters", "create", *words]) == AdaptersCommand(created)
    assert parse(["adapters", "list"]) == AdaptersCommand(ListAdapters())
    assert parse(["adapters", "delete", "tuned"]) == AdaptersCommand(DeleteAdapter("tuned"))
    assert parse(["jobs", "cancel", "exportJobs/1"]) == JobsCommand(CancelJob("exportJobs/1"))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sft", "--batch_sise", "3"], "--batch_size"),
        (["sft", "--learning_rat", "3"], "--learning_rate"),
        (["sftt"], "sft"),
        (["export", "--merge_lora", "perhaps"], "true or false"),
        (["sft", "--learning_rate", "fast"], "--learning_rate"),
        (["jobs"], "watch"),
        ([], "sft"),
    ],
)
def test_wrong_usage_names_what_is_near(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert hint in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "command", ["up", "sft", "export", "deploy", "infer", "jobs", "models", "deployments", "adapters"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: finery {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "options"),
    [(SftArguments, SftOptions), (ExportArguments, ExportOptions), (DeployArguments, DeployOptions)],
)
def test_the_sdk_takes_what_the_command_takes(arguments: type, options: type):
    fields = {field.name for field in dataclasses.fields(arguments)}
    assert fields == set(get_type_hints(options))
