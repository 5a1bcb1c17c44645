"""From a request to an engine's answer: prompt, sampling, chunks."""
