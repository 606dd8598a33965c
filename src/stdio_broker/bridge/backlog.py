"""Messages that wait for a client to open a stream. A bounded queue; pure."""

from collections import deque

__all__ = ["Backlog"]


class Backlog:
    """Keep messages in their order; give up the oldest when there is no room.

    Args:
        max_messages: Messages that may wait.
        max_bytes: Bytes that may wait.
    """

    __slots__ = ("_max_bytes", "_max_messages", "_messages", "_size")

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[bytes] = deque()
        self._size = 0

    @property
    def oldest(self) -> bytes | None:
        """The message that waits longest; None if none does."""
        return self._messages[0] if self._messages else None

    def take(self) -> bytes:
        """Take the oldest message.

        Raises:
            IndexError: There is none.
        """
        message = self._messages.popleft()
        self._size -= len(message)
        return message

    def add(self, message: bytes) -> list[bytes]:
        """Add the newest message; return what was given up for it.

        One that is too long by itself must not cost the others: it is given up, and they stay.
        """
        if len(message) > self._max_bytes:
            return [message]
        self._messages.append(message)
        self._size += len(message)
        return self._trim()

    def put_back(self, messages: list[bytes]) -> list[bytes]:
        """Add messages that are older than all that wait here; return what was given up."""
        self._messages.extendleft(reversed(messages))
        self._size += sum(map(len, messages))
        return self._trim()

    def _trim(self) -> list[bytes]:
        given_up = []
        while len(self._messages) > self._max_messages or self._size > self._max_bytes:
            given_up.append(self.take())
        return given_up
