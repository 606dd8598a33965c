"""Streams of changes over legacy children, which know no such stream: `subscriptions/listen`.

A list that changed is told by any child to every listener of its principal: one child's tool may
change what another one lists. A resource that was updated is told by the child that watches it for
the listener, so nobody is told twice.

Source: MCP 2026-07-28, basic/patterns/subscriptions; protocol matrix, section 4.4.
"""

from typing import Protocol

import msgspec

from ..protocol.jsonrpc import INTERNAL_ERROR, Members, encode, object_members, string_member
from ..protocol.listen import ListenFilter, acknowledgement, graceful_result, tag
from ..protocol.modern import ModernRequest
from .messages import changes, slow_client
from .shared_child import SharedExchange

__all__ = ["LIST_CHANGED", "UPDATED", "Changes", "LegacyListener", "Watcher"]

UPDATED = "notifications/resources/updated"
LIST_CHANGED = frozenset(
    {
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/tools/list_changed",
    }
)


class Watcher(Protocol):
    """Who lets a child watch for a listener."""

    @property
    def server_info(self) -> msgspec.Raw | None:
        """What the child says of itself."""

    def stop_watching(self, listener: "LegacyListener") -> None:
        """Forget a listener, and what only it wanted to be told."""


class LegacyListener:
    """One stream of changes.

    Attributes:
        watcher: Who has its resources watched.
        exchange: Where they are told.
        filter: What it is told.
    """

    def __init__(
        self, watcher: Watcher, request: ModernRequest, exchange: SharedExchange, wanted: ListenFilter
    ) -> None:
        self.watcher = watcher
        self.exchange = exchange
        self.filter = wanted
        self._id = request.id
        exchange.on_abandoned = self.leave
        # First of all: nothing may come before it.
        exchange.put(acknowledgement(request.id, wanted))

    def tell(self, change: Members) -> None:
        """Pass on a change, unless the stream has ended; end it if its client does not read."""
        if not self.exchange.open:
            return
        self.exchange.put(encode(tag(change, self._id)))
        if self.exchange.cut:
            self.leave()
            self.exchange.error_code = INTERNAL_ERROR
            self.exchange.answer(slow_client(self._id))

    def tell_all(self) -> None:
        """Say that everything may have changed: nobody has watched for a while."""
        for change in changes(self.filter):
            self.tell(change)

    def leave(self) -> None:
        """Listen no more."""
        self.watcher.stop_watching(self)

    def end(self) -> None:
        """End the stream with the result that says so."""
        self.leave()
        self.exchange.answer(graceful_result(self._id, self.watcher.server_info))


class Changes:
    """Everybody of one principal who listens to one server."""

    def __init__(self) -> None:
        self._listeners: dict[LegacyListener, None] = {}

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, listener: LegacyListener) -> None:
        """Tell a listener from now on."""
        self._listeners[listener] = None

    def discard(self, listener: LegacyListener) -> None:
        """Tell it no more."""
        self._listeners.pop(listener, None)

    def publish(self, watcher: Watcher, change: Members, method: str) -> None:
        """Tell everybody who wants to know of a change that a child has announced.

        Args:
            watcher: Whose child.
            change: All members of the notification.
            method: Its method.
        """
        params = object_members(change.get("params"))
        uri = string_member(params, "uri")
        for listener in list(self._listeners):
            known = method in LIST_CHANGED or listener.watcher is watcher
            if known and listener.filter.wants(method, uri):
                listener.tell(change)
