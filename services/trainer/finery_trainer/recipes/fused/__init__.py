"""The decoder layer of llama-like models as two autograd functions, with LoRA adapters folded into their kernels."""
