"""What can be wrong with a row."""

TOO_DEEP = "it is nested too deeply; write lists and objects inside each other a few levels deep"
"""Of JSON that can't be read for that reason."""


class RowProblem(ValueError):
    """Why a row can't be used, in words for its author."""
