"""``make demo``: a model fine-tuned, merged, quantized, served and questioned."""
