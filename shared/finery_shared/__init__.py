"""The library that every Finery process uses; it never imports torch, transformers or vllm."""
