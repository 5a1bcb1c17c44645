"""Proves that an imported directory is whole: it loads, its tokens are right, and it answers and stops by itself."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finery_shared.errors import FineryError, Reason

QUESTION = "What is the capital of France?"
MAX_NEW_TOKENS = 64


def check(directory: Path, *, rope_theta: float, chat_template: str) -> str:
    """Loads ``directory`` as any other tool would and returns the greedy answer to one question.

    Raises MODEL_INVALID that names the first thing found wrong.
    """
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype="auto")
    found_theta = model.config.rope_parameters["rope_theta"]
    _require(found_theta == rope_theta, f"rope_theta is read back as {found_theta}, not {rope_theta}")
    _require(model.dtype is torch.bfloat16, f"the weights are read back as {model.dtype}, not bf16")
    _require(tokenizer.chat_template == chat_template, "the chat template is not read back verbatim")
    _require(
        model.generation_config.eos_token_id == tokenizer.eos_token_id,
        f"the model stops at token {model.generation_config.eos_token_id}, the tokenizer at {tokenizer.eos_token_id}",
    )
    broken = [name for name, tensor in model.named_parameters() if not bool(torch.isfinite(tensor).all())]
    _require(not broken, f"tensors are not finite: {', '.join(broken[:3])}")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    new_tokens = output[0, prompt["input_ids"].shape[1] :].tolist()
    _require(new_tokens[-1] == tokenizer.eos_token_id, f"the answer does not end within {MAX_NEW_TOKENS} tokens")
    answer = str(tokenizer.decode(new_tokens, skip_special_tokens=True)).strip()
    _require(bool(answer), "the answer is empty")
    return answer


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise FineryError(
            Reason.MODEL_INVALID, f"The imported model is not usable: {problem}. Download the GGUF file again."
        )
