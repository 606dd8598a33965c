"""The defaults that others rely on."""

from stdio_broker.bridge import Settings


def test_a_backlog_of_the_default_size_fits_a_stream_of_the_default_size() -> None:
    """Our rule: a new GET takes the whole backlog at once."""
    settings = Settings()
    overhead = 64 * settings.max_backlog_messages
    assert settings.max_backlog_bytes + overhead <= settings.max_stream_bytes
