"""Tool calls: what a request may call, how a model writes it, and how that is read as it comes."""
