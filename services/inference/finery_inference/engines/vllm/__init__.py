"""vLLM as an engine. `factory` and `environment` are light; `engine` imports vLLM, which takes seconds."""
