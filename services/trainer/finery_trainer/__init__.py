"""Finery's trainer service: fine-tuning jobs in worker processes, behind gRPC."""
