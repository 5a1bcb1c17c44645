"""The inference service: models that are loaded, and what they answer."""
