"""What was written to a session's event streams, for a client that lost one. A bounded memory; pure.

An event's id names its stream and its place there, `<stream>_<number>`: it is unique in the session,
and a stream goes on where it was left, whatever the others do. Numbers may have gaps, because an
event without a message has an id too, and nothing to repeat.

Source: MCP 2025-11-25, basic/transports, "Resumability and Redelivery".
"""

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ..errors import LocalProtocolError
from ..protocol.jsonrpc import INVALID_REQUEST
from .budget import Budget
from .nothing import NOTHING

__all__ = ["EVENT_OVERHEAD_BYTES", "EventLog", "EventsLost", "StreamLog"]

#: What a kept event costs besides its bytes, so that many tiny ones count too.
EVENT_OVERHEAD_BYTES = 128

#: Room for every id that we give; a number of a thousand digits would take its time.
_EVENT_ID = re.compile(rb"([0-9]{1,15})_([0-9]{1,15})")

Owner = TypeVar("Owner")


class EventsLost(Exception):
    """A stream cannot be resumed there: it is unknown, or over, or not all that followed is kept."""


class Timer(Protocol):
    """Something that will happen, unless it is cancelled."""

    def cancel(self) -> None:
        """Let it not happen."""


@dataclass(slots=True, eq=False)
class StreamLog(Generic[Owner]):
    """The events of one stream.

    Attributes:
        number: Its number in the session.
        owner: What a client that resumes it reads on.
        last: Number of the newest event.
        horizon: Number of the newest event that is not kept any more; 0 if all are.
        kept: Number → message.
        retired: Whether no event will come any more, so that it is forgotten with its last one.
        timer: What else may forget it.
    """

    number: int
    owner: Owner
    last: int = 0
    horizon: int = 0
    kept: dict[int, bytes] = field(default_factory=dict)
    retired: bool = False
    timer: Timer | None = None


class EventLog(Generic[Owner]):
    """The streams of one session that a client can come back to.

    Args:
        max_events: Events that are kept, of all streams together; past it the oldest is given up.
        max_bytes: The same in bytes, with `EVENT_OVERHEAD_BYTES` for each. A longer event is not kept.
        budget: Bounds what all logs, streams and backlogs hold together; None if nothing does. What is
            kept here is kept just in case, so it gives way.

    Attributes:
        held_bytes: Bytes that are kept now, overhead included.
    """

    __slots__ = (
        "_budget",
        "_closed",
        "_last_number",
        "_max_bytes",
        "_max_events",
        "_order",
        "_streams",
        "held_bytes",
    )

    def __init__(self, *, max_events: int, max_bytes: int, budget: Budget | None = None) -> None:
        self.held_bytes = 0
        self._budget = budget or Budget()
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._streams: dict[int, StreamLog[Owner]] = {}
        self._order: deque[tuple[StreamLog[Owner], int]] = NOTHING
        self._last_number = 0
        self._closed = False

    def __del__(self) -> None:
        self._budget.remove(self.held_bytes)

    @property
    def held_events(self) -> int:
        """How many events are kept now."""
        return len(self._order)

    @property
    def streams(self) -> int:
        """How many streams are known now."""
        return len(self._streams)

    def start(self, owner: Owner) -> StreamLog[Owner]:
        """Begin the log of a stream, which is about to show the client its first id."""
        self._last_number += 1
        log = StreamLog(self._last_number, owner)
        if not self._closed:
            self._streams[log.number] = log
        return log

    def mark(self, log: StreamLog[Owner]) -> bytes:
        """Return the id of an event without a message."""
        log.last += 1
        return _event_id(log, log.last)

    def record(self, log: StreamLog[Owner], message: bytes) -> bytes:
        """Keep a message that is being written; return the id of its event."""
        event_id = self.mark(log)
        if log.number not in self._streams or not self._has_room_for(_size(message)):
            log.horizon = log.last
            return event_id
        log.kept[log.last] = message
        if not self._order:
            self._order = deque()
        self._order.append((log, log.last))
        self._resize(_size(message))
        while len(self._order) > self._max_events or self.held_bytes > self._max_bytes:
            self._drop_oldest()
        return event_id

    def find(self, event_id: bytes) -> tuple[StreamLog[Owner], int]:
        """Return the stream of an event that the client has seen, and the event's number there.

        Raises:
            LocalProtocolError: This is no id of ours.
            EventsLost: The stream cannot be resumed there.
        """
        match = _EVENT_ID.fullmatch(event_id)
        if match is None:
            found = event_id[:64].decode("latin-1")
            raise LocalProtocolError(
                f"expected Last-Event-ID to be the id of an event of this session, found {found!r}",
                code=INVALID_REQUEST,
            )
        log = self._streams.get(int(match[1]))
        if log is None:
            raise EventsLost
        self.after(log, int(match[2]))
        return log, int(match[2])

    def after(self, log: StreamLog[Owner], number: int) -> tuple[int, bytes, bytes] | None:
        """Return number, id and message of the first event behind one; None if there is none.

        Raises:
            EventsLost: One behind it is not kept any more, or there never was such an event.
        """
        if not log.horizon <= number <= log.last:
            raise EventsLost
        for following in range(number + 1, log.last + 1):
            if following in log.kept:
                return following, _event_id(log, following), log.kept[following]
        return None

    def retire(self, log: StreamLog[Owner], timer: Timer) -> None:
        """Say that a stream is over: it is forgotten with its last event, or when the timer says so."""
        log.retired = True
        log.timer = timer
        if not log.kept:
            self.forget(log)

    def revive(self, log: StreamLog[Owner]) -> None:
        """Say that a client has come back to a stream."""
        log.retired = False
        if log.timer is not None:
            log.timer.cancel()
            log.timer = None

    def forget(self, log: StreamLog[Owner]) -> None:
        """Forget a stream and its events."""
        self.revive(log)
        self._streams.pop(log.number, None)
        if log.kept:
            self._resize(-sum(map(_size, log.kept.values())))
            self._order = deque(kept for kept in self._order if kept[0] is not log)
            log.kept.clear()
        log.horizon = log.last

    def close(self) -> None:
        """Forget everything. What is still written gets ids, and is not kept."""
        self._closed = True
        for log in self._streams.values():
            self.revive(log)
            log.kept.clear()
            log.horizon = log.last
        self._streams.clear()
        self._order.clear()
        self._resize(-self.held_bytes)

    def _has_room_for(self, size: int) -> bool:
        """Whether an event may be kept, once older ones are given up."""
        if size > self._max_bytes:
            return False
        while self._order and not self._budget.can_spare(size):
            self._drop_oldest()
        return self._budget.can_spare(size)

    def _resize(self, by: int) -> None:
        self.held_bytes += by
        self._budget.add(by)

    def _drop_oldest(self) -> None:
        log, number = self._order.popleft()
        log.horizon = max(log.horizon, number)
        self._resize(-_size(log.kept.pop(number)))
        if log.retired and not log.kept:
            self.forget(log)


def _event_id(log: StreamLog[Owner], number: int) -> bytes:
    return b"%d_%d" % (log.number, number)


def _size(message: bytes) -> int:
    return len(message) + EVENT_OVERHEAD_BYTES
