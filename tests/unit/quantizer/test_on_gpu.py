"""The same on an accelerator: half precision, page-locked copies, a model that stays packed."""

from pathlib import Path

import pytest
import torch

from finery_quantizer.backends.awq.backend import AwqBackend
from finery_quantizer.backends.awq.readback import PackedLinear, load_packed
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_quantizer.backends.checkpoint.tokenizer import load_tokenizer
from finery_quantizer.backends.checks.perplexity import perplexity, streamed_perplexities
from finery_quantizer.backends.checks.quantized import Bounds, QuantizationCheck
from finery_quantizer.request import TrainingRecipe
from finery_shared.errors import FineryError
from tests.unit.quantizer.models import whole_model, write_model
from tests.unit.quantizer.test_checks import rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
BLOCKS = torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(3))
HELD_OUT = torch.randint(0, 512, (2, 96), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_model_is_quantized_and_read_back_there(tmp_path: Path, dtype: torch.dtype) -> None:
    gpu = torch.device("cuda")
    source = write_model(tmp_path / "source", dtype=dtype)
    right = whole_model(source, torch.float32)(HELD_OUT).logits
    errors = {}
    for device in (torch.device("cpu"), gpu):
        backend = AwqBackend(source, device, tmp_path / f"state-{device}")
        written = backend.quantize(source, tmp_path / f"int4-{device}", BLOCKS.tolist(), lambda *_: None)
        found = backend.load(written, torch.float32)(HELD_OUT.to(device)).logits.cpu()
        errors[device.type] = float((found - right).square().mean() / right.square().mean())
    assert errors["cuda"] < 1.2 * errors["cpu"]
    packed = load_packed(written, gpu, torch.float32, home=torch.device("cpu"))
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 2 * 7
    torch.testing.assert_close(packed(HELD_OUT.to(gpu)).logits.cpu(), found, rtol=1e-3, atol=1e-3)


def test_a_streamed_models_perplexity_is_that_of_the_whole_one(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source")
    whole = perplexity(whole_model(source, torch.float32), rows(source))
    (found,) = streamed_perplexities(StreamedModel(source, torch.device("cuda"), torch.float32), rows(source), [])
    assert found == pytest.approx(whole, rel=1e-3)


def test_the_gates_are_passed_up_to_the_talk(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source")
    backend = AwqBackend(source, torch.device("cuda"), tmp_path / "state")
    written = backend.quantize(source, tmp_path / "int4", BLOCKS.tolist(), lambda *_: None)
    check = QuantizationCheck(backend, source, written, Bounds(over_source=2, over_rounding=2))
    with pytest.raises(FineryError, match="answers to small talk"):  # random weights never say the end of a turn
        check.run(load_tokenizer(source), rows(source), TrainingRecipe(), ())
