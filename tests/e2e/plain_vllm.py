"""vLLM by itself on a model's directory: prints its answer to a question. For `python -I`, so that no path helps."""

import sys

from vllm import LLM, SamplingParams


def main() -> None:
    """Answer greedily, and print the answer after a mark, behind whatever vLLM prints."""
    model, question = sys.argv[1:]
    engine = LLM(model, max_model_len=512, max_num_seqs=2, enforce_eager=True)
    (output,) = engine.chat([{"role": "user", "content": question}], SamplingParams(temperature=0, max_tokens=48))
    assert not any(name.partition(".")[0].startswith("finery") for name in sys.modules)
    print(f"quantization: {engine.llm_engine.vllm_config.model_config.quantization}")  # noqa: T201
    print(f"answer: {output.outputs[0].text!r}, {output.outputs[0].finish_reason}")  # noqa: T201


if __name__ == "__main__":
    main()
