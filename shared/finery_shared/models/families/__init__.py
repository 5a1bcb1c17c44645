"""One file of data for each model family."""
