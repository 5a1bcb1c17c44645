"""The finery command line: one file for each command."""
