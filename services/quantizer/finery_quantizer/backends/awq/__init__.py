"""Activation-aware weight quantization (AWQ, arXiv 2306.00978) to int4 in AutoAWQ's GEMM format.

The order of the work and the model mappings are AutoAWQ's; the hot path (search, clip, packing) is tensor operations
that never change the weights they measure.
"""
