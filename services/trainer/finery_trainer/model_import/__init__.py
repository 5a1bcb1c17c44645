"""Turns a GGUF file into a plain Hugging Face directory that every stage can load."""
