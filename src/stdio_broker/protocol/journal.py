"""What a client has told a legacy server that another process of it must be told again. Pure.

A session outlives its child by what stands here: the `initialize` with which it began, whether
`notifications/initialized` followed, the log level, and the subscriptions. Only what the server has
agreed to counts. Everything else a client can ask for is over with its answer.

Source: MCP 2025-11-25, basic/lifecycle, server/utilities/logging, server/resources; design decision 6.
"""

import contextlib
import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from .jsonrpc import Members, Request, Response, encode, object_members, raw, string_member

__all__ = ["Entry", "Journal", "Likeness", "unsubscription"]

INITIALIZE = "initialize"
SET_LEVEL = "logging/setLevel"
SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"

_JOURNALLED = frozenset({INITIALIZE, SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE})

#: What is kept of a session for as long as it lives: bytes of one request, subscriptions, and bytes of them
#: all. One with more is not replayed. Real ones have a few hundred bytes, and a handful.
MAX_ENTRY_BYTES = 64 * 1024
MAX_SUBSCRIPTIONS = 1024
MAX_SUBSCRIPTION_BYTES = 256 * 1024

#: Bytes of an answer to `initialize` that are looked into, not only at: what they mean takes many times as
#: much memory. Real ones have some thousand.
MAX_ANSWER_BYTES = 64 * 1024

_LIST_CHANGED = {
    "tools": "notifications/tools/list_changed",
    "prompts": "notifications/prompts/list_changed",
    "resources": "notifications/resources/list_changed",
}


class Likeness(enum.Enum):
    """How the answer of another process to `initialize` compares with the first one's."""

    SAME = "same"  #: nothing to tell
    CHANGED = "changed"  #: the client works on, but what it has listed may be out of date
    INCOMPATIBLE = "incompatible"  #: another version or other capabilities: what was agreed holds no more


@dataclass(frozen=True, slots=True)
class Entry:
    """One request that counts once the server has agreed to it.

    Attributes:
        method: What it asks for.
        params: How, encoded.
        uri: Which resource, if it is about one.
    """

    method: str
    params: bytes
    uri: str | None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is kept of an answer to `initialize`: enough to tell another one apart."""

    agreement: bytes  # digest of the version and the capabilities
    whole: bytes  # digest of everything
    list_changed: tuple[str, ...]


class Journal:
    """What one client has told its server, bounded.

    Attributes:
        initialized: Whether the client has sent `notifications/initialized`.
        complete: Whether all of it is here. If not, the session cannot be replayed.
    """

    __slots__ = (
        "_answer",
        "_initialize",
        "_log_level",
        "_subscriptions",
        "complete",
        "initialized",
    )

    def __init__(self) -> None:
        self.initialized = False
        self.complete = True
        self._initialize: bytes | None = None
        self._answer: _Answer | None = None
        self._log_level: Entry | None = None
        self._subscriptions: dict[str, Entry] = {}

    @property
    def initialize_params(self) -> bytes | None:
        """The params of the `initialize` that the server has agreed to; None before."""
        return self._initialize

    @property
    def subscriptions(self) -> int:
        """How many resources the client is subscribed to."""
        return len(self._subscriptions)

    def entry(self, request: Request) -> Entry | None:
        """Return what to `commit` when the server has agreed to a request; None of nearly all."""
        if request.method not in _JOURNALLED:
            return None
        raw_params = request.members.get("params", msgspec.Raw(b"{}"))
        if len(bytes(raw_params)) > MAX_ENTRY_BYTES:
            self.complete = False
            return None
        params = object_members(raw_params) or {}
        # Nobody waits for progress any more, and in another child the token may be that of another call.
        meta = object_members(params.get("_meta"))
        if meta is not None and meta.pop("progressToken", None) is not None:
            params["_meta"] = msgspec.Raw(encode(meta))
        return Entry(request.method, encode(params), string_member(params, "uri"))

    def commit(self, entry: Entry, response: Response) -> bool:
        """Note that the server has answered; tell whether it agreed, and something new stands here."""
        result = object_members(response.members.get("result"))
        if result is None:
            return False
        if entry.method == INITIALIZE:
            self._initialize, self._answer = entry.params, _read(result)
        elif entry.method == SET_LEVEL:
            self._log_level = entry
        elif entry.uri is not None and entry.method == UNSUBSCRIBE:
            self._subscriptions.pop(entry.uri, None)
        elif entry.uri is not None and self.complete:
            self._subscribe(entry.uri, entry)
        return True

    def _subscribe(self, uri: str, entry: Entry) -> None:
        self._subscriptions[uri] = entry
        if (
            len(self._subscriptions) > MAX_SUBSCRIPTIONS
            or sum(len(one.params) for one in self._subscriptions.values()) > MAX_SUBSCRIPTION_BYTES
        ):
            self.complete = False
            self._subscriptions.clear()  # nobody needs a part of them

    def entries(self) -> Iterator[Entry]:
        """Return what another process has to be asked after the handshake, as it stands now."""
        if self._log_level is not None:
            yield self._log_level
        yield from list(self._subscriptions.values())

    def compare(self, result: Members) -> Likeness:
        """Compare another process's answer to `initialize` with the one that the client has seen."""
        answer = _read(result)
        if self._answer is None or answer.agreement != self._answer.agreement:
            return Likeness.INCOMPATIBLE
        return Likeness.SAME if answer.whole == self._answer.whole else Likeness.CHANGED

    def list_changes(self) -> list[bytes]:
        """Return the notifications that every list may have changed, as far as the server announced them."""
        methods = () if self._answer is None else self._answer.list_changed
        return [encode({"jsonrpc": raw("2.0"), "method": raw(method)}) for method in methods]

    def updates(self) -> list[bytes]:
        """Return the notifications that every resource may have changed that the client subscribed to."""
        return [
            encode(
                {
                    "jsonrpc": raw("2.0"),
                    "method": raw("notifications/resources/updated"),
                    "params": raw({"uri": uri}),
                }
            )
            for uri in self._subscriptions
        ]


def unsubscription(uri: str) -> Entry:
    """Return what takes a subscription back."""
    return Entry(UNSUBSCRIBE, encode({"uri": raw(uri)}), uri)


def _read(result: Members) -> _Answer:
    capabilities = object_members(result.get("capabilities")) or {}
    announced = tuple(
        method
        for name, method in _LIST_CHANGED.items()
        if (object_members(capabilities.get(name)) or {}).get("listChanged") == msgspec.Raw(b"true")
    )
    agreed: Members = {name: result[name] for name in ("protocolVersion", "capabilities") if name in result}
    return _Answer(_digest(agreed), _digest(result), announced)


def _digest(members: Members) -> bytes:
    """Return what is equal for equal JSON, however it is written, unless that is long or hard to read."""
    text = encode(members)
    if len(text) <= MAX_ANSWER_BYTES:
        # A number may be beyond what there is here, and a process writes its own the same way each time.
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            text = msgspec.json.encode(msgspec.json.decode(text), order="sorted")
    return hashlib.sha256(text).digest()
