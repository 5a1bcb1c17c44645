"""The quantizer service: folds adapters into models and writes them as AWQ int4, checked before success."""
