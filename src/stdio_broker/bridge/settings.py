"""Bounds of a bridge."""

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds of one bridge, that is of one child.

    Attributes:
        max_calls: Client requests in flight at once. More are refused; a client with this many
            open calls is not waiting for answers.
        max_questions: Requests of the child that wait for the client. More are refused to the child.
        max_stream_bytes: Bytes that may wait on one stream for a slow client; past it the stream is
            cut, so that one slow reader costs its own exchange only. A final answer always fits.
        max_backlog_messages: Messages kept for a GET stream while none is open; past it the oldest
            is dropped and counted.
        max_backlog_bytes: The same in bytes. What a new GET has no room for waits for the next one.
    """

    max_calls: int = 256
    max_questions: int = 64
    max_stream_bytes: int = 4 * 1024 * 1024
    max_backlog_messages: int = 200
    max_backlog_bytes: int = 1024 * 1024
