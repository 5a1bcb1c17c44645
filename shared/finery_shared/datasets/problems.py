"""What can be wrong with a row."""


class RowProblem(ValueError):
    """Why a row can't be used, in words for its author."""
