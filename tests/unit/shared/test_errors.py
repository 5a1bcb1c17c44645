from finery_shared.errors import CATALOG, FineryError, Reason, invalid


def test_every_reason_has_one_entry_in_the_catalog() -> None:
    assert set(CATALOG) == set(Reason)


def test_http_status_and_type_agree() -> None:
    for reason, kind in CATALOG.items():
        assert 400 <= kind.http_status < 600, reason
        assert (kind.http_status >= 500) == (kind.openai_type == "server_error"), reason


def test_an_invalid_field_is_named() -> None:
    error = invalid("batch_size", "must be at least 1")
    assert (error.reason, error.message, error.metadata) == (
        Reason.INVALID_ARGUMENT,
        "batch_size: must be at least 1",
        {"field": "batch_size"},
    )
    assert isinstance(error, FineryError)
