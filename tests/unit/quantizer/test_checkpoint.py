import json
from pathlib import Path

import pytest
import torch

from finery_quantizer.backends.checkpoint.config import load_config, to_transformers_4
from finery_quantizer.backends.checkpoint.fingerprint import fingerprint
from finery_quantizer.backends.checkpoint.shards import storage_dtype, tensor_shapes, weight_files
from finery_quantizer.backends.checkpoint.tokenizer import load_tokenizer
from finery_quantizer.backends.checks.tokenizers import check_same_files
from finery_shared.errors import FineryError, Reason
from finery_shared.templates.render import render
from tests.unit.quantizer.models import whole_model, write_model


def edit(file: Path, **changes: object) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def as_transformers_5(directory: Path) -> None:
    """What transformers 5 writes where transformers 4 misreads it in silence."""
    edit(
        directory / "config.json",
        rope_theta=None,
        rope_scaling=None,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        torch_dtype=None,
        dtype="bfloat16",
        transformers_version="5.19.0",
    )
    tokenizer = json.loads((directory / "tokenizer_config.json").read_text())
    edit(
        directory / "tokenizer_config.json",
        tokenizer_class="TokenizersBackend",
        backend="tokenizers",
        is_local=True,
        chat_template=None,
        added_tokens_decoder=None,
    )
    (directory / "chat_template.jinja").write_text(
        tokenizer.get("chat_template") or (directory / "chat_template.jinja").read_text()
    )


def test_a_transformers_5_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    old, new = write_model(tmp_path / "old"), write_model(tmp_path / "new")
    as_transformers_5(new)
    config = load_config(new)
    assert config.rope_theta == 100000.0
    assert config.torch_dtype == torch.bfloat16
    ids = torch.arange(200, 240).unsqueeze(0)
    assert torch.equal(whole_model(new)(ids).logits, whole_model(old)(ids).logits)
    messages = [{"role": "user", "content": "Hi, 你好"}, {"role": "assistant", "content": "Yes."}]
    assert render(load_tokenizer(new), messages) == render(load_tokenizer(old), messages)
    assert load_tokenizer(new).eos_token == "<|im_end|>"


def test_scaled_rotary_embeddings_keep_their_scaling() -> None:
    converted = to_transformers_4({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}})
    assert converted == {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    with pytest.raises(FineryError) as caught:
        to_transformers_4({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}})
    assert caught.value.reason is Reason.UNSUPPORTED


def test_a_special_token_that_the_vocabulary_lacks_is_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    edit(directory / "tokenizer_config.json", eos_token="<|nowhere|>")
    with pytest.raises(FineryError, match="eos_token is '<|nowhere|>'".replace("|", r"\|")):
        load_tokenizer(directory)


def test_a_model_that_lacks_a_tensor_is_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = write_model(tmp_path / "model")
    file = weight_files(directory)[0]
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FineryError, match=r"missing keys.*model\.layers\.1\.mlp\.up_proj\.weight"):
        whole_model(directory)


def test_a_truncated_file_is_data_loss(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    file = weight_files(directory)[0]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FineryError) as caught:
        storage_dtype(directory)
    assert caught.value.reason is Reason.DATA_LOSS
    assert str(file) in str(caught.value)


def test_shapes_and_dtype_come_from_the_files(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", dtype=torch.float16, shard="40KB")
    assert storage_dtype(directory) == torch.float16
    assert tensor_shapes(directory)["model.layers.0.self_attn.k_proj.weight"] == (32, 64)


def test_a_fingerprint_knows_value_shape_and_dtype() -> None:
    tensor = torch.arange(6.0)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    others = [tensor.view(2, 3), tensor.bfloat16(), tensor + torch.tensor([0, 0, 0, 0, 0, 1e-6])]
    assert len({fingerprint(t) for t in (tensor, *others)}) == 4


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json"])
def test_a_swapped_tokenizer_fails_the_gate(tmp_path: Path, name: str) -> None:
    source, made = write_model(tmp_path / "source"), write_model(tmp_path / "made")
    check_same_files(source, made)
    content = (made / name).read_bytes()
    (made / name).write_bytes(content.replace(b"257", b"256") if b"257" in content else content + b"\n")
    with pytest.raises(FineryError, match=name) as caught:
        check_same_files(source, made)
    assert caught.value.reason is Reason.GATE_FAILED
    (made / name).unlink()
    with pytest.raises(FineryError, match=name):
        check_same_files(source, made)
