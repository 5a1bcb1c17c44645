from finery_shared.templates import Rendered, split_by_length


def row(length: int) -> Rendered:
    return Rendered("x" * length, (7,) * length, (1,) * length)


def test_long_rows_are_reported_not_cut() -> None:
    report = split_by_length([row(3), row(9), row(5), row(6)], max_length=5)
    assert [len(kept.token_ids) for kept in report.kept] == [3, 5]
    assert report.too_long == (1, 3)
    assert (report.longest, report.max_length) == (9, 5)


def test_no_rows() -> None:
    assert split_by_length([], 5).longest == 0
