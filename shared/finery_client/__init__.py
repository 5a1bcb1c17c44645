"""The SDK and the finery command line."""
