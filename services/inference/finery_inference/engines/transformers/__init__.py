"""Hugging Face transformers as an engine, in a process of its own. `worker` and what it uses alone import torch."""
