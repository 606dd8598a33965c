"""Messages that wait for a client to open a stream. A bounded queue; pure."""

from collections import deque

from .budget import Budget
from .nothing import NOTHING

__all__ = ["Backlog"]


class Backlog:
    """Keep messages in their order; give up the oldest when there is no room.

    Args:
        max_messages: Messages that may wait.
        max_bytes: Bytes that may wait.
        budget: Bounds what waits in all backlogs and streams together; None if nothing does.
    """

    __slots__ = ("_budget", "_max_bytes", "_max_messages", "_messages", "_size")

    def __init__(self, *, max_messages: int, max_bytes: int, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[bytes] = NOTHING
        self._size = 0

    def __del__(self) -> None:
        self._budget.remove(self._size)

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
        self._resize(-len(message))
        return message

    def add(self, message: bytes) -> list[bytes]:
        """Add the newest message; return what was given up for it.

        One that is too long by itself must not cost the others: it is given up, and they stay. So is one
        that the budget has no room for.
        """
        if len(message) > self._max_bytes or not self._budget.has_room_for(len(message)):
            return [message]
        self._begin()
        self._messages.append(message)
        self._resize(len(message))
        return self._trim()

    def put_back(self, messages: list[bytes]) -> list[bytes]:
        """Add messages that are older than all that wait here; return what was given up.

        The budget does not matter: they were charged to it until now.
        """
        self._begin()
        self._messages.extendleft(reversed(messages))
        self._resize(sum(map(len, messages)))
        return self._trim()

    def leave_budget(self) -> None:
        """Charge nothing any more: what is left is for a client that comes soon, or goes with all else."""
        self._budget.remove(self._size)
        self._budget = Budget()
        self._budget.add(self._size)

    def _begin(self) -> None:
        if not self._messages:
            self._messages = deque()

    def _resize(self, by: int) -> None:
        self._size += by
        self._budget.add(by)

    def _trim(self) -> list[bytes]:
        given_up = []
        while len(self._messages) > self._max_messages or self._size > self._max_bytes:
            given_up.append(self.take())
        return given_up
