"""LoRA adapters (arXiv 2106.09685) as PEFT writes them, folded into a model's files shard by shard."""
