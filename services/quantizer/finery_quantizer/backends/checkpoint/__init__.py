"""Hugging Face model directories, whichever transformers major wrote them: config, tokenizer, weights, as tensors."""
