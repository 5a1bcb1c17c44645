"""Chat templates: messages to token ids and a loss mask, by the tokenizer's own template."""
