"""The OpenAI-compatible front door; never imports torch."""
