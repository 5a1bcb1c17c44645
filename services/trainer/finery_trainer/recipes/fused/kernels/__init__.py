"""Triton kernels of the fused layers. Token counts are multiples of the tiles' 64 rows; columns are masked."""
