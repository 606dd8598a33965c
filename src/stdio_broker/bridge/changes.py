"""Streams of changes over legacy children, which know no such stream: `subscriptions/listen`.

A list that changed is told by any child to every listener of its principal: one child's tool may
change what another one lists. A resource that was updated is told by the child that watches it for
the listener, so nobody is told twice.

Source: MCP 2026-07-28, basic/patterns/subscriptions; protocol matrix, section 4.4.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from ..protocol.jsonrpc import INTERNAL_ERROR, Members, encode, object_members, string_member
from ..protocol.modern import ModernRequest
from ..protocol.to_modern import ListenFilter, acknowledgement, graceful_result, tag
from .messages import changes, slow_client
from .shared_child import SharedExchange

__all__ = ["LIST_CHANGED", "Changes", "LegacyListener", "Watcher"]

UPDATED = "notifications/resources/updated"
LIST_CHANGED = frozenset(
    {
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/tools/list_changed",
    }
)


class Watcher(Protocol):
    """A child, as a listener sees it."""

    @property
    def server_info(self) -> msgspec.Raw | None:
        """What it says of itself."""

    def stop_watching(self, listener: "LegacyListener") -> None:
        """Forget a listener, and what only it wanted to be told."""


class LegacyListener:
    """One stream of changes.

    Attributes:
        child: Who watches the resources for it.
        exchange: Where they are told.
        filter: What it is told.
    """

    def __init__(
        self, child: Watcher, request: ModernRequest, exchange: SharedExchange, wanted: ListenFilter
    ) -> None:
        self.child = child
        self.exchange = exchange
        self.filter = wanted
        self._id = request.id
        exchange.on_abandoned = self.leave
        # First of all: nothing may come before it.
        exchange.put(acknowledgement(request.id, wanted))

    def tell(self, change: Members) -> None:
        """Pass on a change; end the stream if its client does not read."""
        if not self.exchange.put(encode(tag(change, self._id))) and self.exchange.cut:
            self.leave()
            self.exchange.error_code = INTERNAL_ERROR
            self.exchange.answer(slow_client(self._id))

    def tell_all(self) -> None:
        """Say that everything may have changed: nobody has watched for a while."""
        for change in changes(self.filter):
            self.tell(change)

    def leave(self) -> None:
        """Listen no more."""
        self.child.stop_watching(self)

    def end(self) -> None:
        """End the stream with the result that says so."""
        self.leave()
        self.exchange.answer(graceful_result(self._id, self.child.server_info))


class Changes:
    """Everybody of one principal who listens to one server.

    Args:
        on_change: Called when a listener comes or goes.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._listeners: dict[LegacyListener, None] = {}
        self._on_change = on_change

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, listener: LegacyListener) -> None:
        """Tell a listener from now on."""
        self._listeners[listener] = None
        self._on_change()

    def discard(self, listener: LegacyListener) -> None:
        """Tell it no more."""
        self._listeners.pop(listener, None)
        self._on_change()

    def publish(self, child: Watcher, change: Members, method: str) -> None:
        """Tell everybody who wants to know of a change that a child has announced."""
        params = object_members(change.get("params"))
        uri = string_member(params, "uri")
        for listener in list(self._listeners):
            known = method in LIST_CHANGED or listener.child is child
            if known and listener.filter.wants(method, uri):
                listener.tell(change)
