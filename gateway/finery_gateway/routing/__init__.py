"""From a model id to an inference process that serves it."""
