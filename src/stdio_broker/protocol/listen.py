"""`subscriptions/listen`: what a modern client wants to be told, and the messages of its stream. Pure.

Source: MCP 2026-07-28, basic/patterns/subscriptions.
"""

from dataclasses import dataclass

import msgspec

from ..errors import LocalProtocolError
from .jsonrpc import INVALID_PARAMS, Members, encode, object_members, raw, result_response
from .modern import LISTEN, MAX_ELEMENTS, META_SUBSCRIPTION_ID, ModernRequest, string_elements
from .to_modern import fill_result

__all__ = [
    "ListenFilter",
    "acknowledgement",
    "graceful_result",
    "read_filter",
    "supported_by",
    "tag",
    "tag_result",
]

_RAW_TRUE = msgspec.Raw(b"true")


@dataclass(frozen=True, slots=True)
class ListenFilter:
    """Which notifications a client listens for.

    Attributes:
        tools: That the list of tools has changed.
        prompts: That the list of prompts has changed.
        resources: That the list of resources has changed.
        uris: That one of these resources was updated, or a part of it; each stands here once.
    """

    tools: bool
    prompts: bool
    resources: bool
    uris: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return it as a SubscriptionFilter, without what is not listened for."""
        wanted: dict[str, object] = {
            "toolsListChanged": self.tools,
            "promptsListChanged": self.prompts,
            "resourcesListChanged": self.resources,
            "resourceSubscriptions": self.uris,
        }
        return {name: value for name, value in wanted.items() if value}

    def wants(self, method: str, uri: str | None) -> bool:
        """Return whether a notification is listened for.

        Args:
            method: Its method.
            uri: The resource that it is about, or None. It may be a part of the one that is listened
                for (MCP 2026-07-28, schema, ResourceUpdatedNotificationParams).
        """
        if method == "notifications/tools/list_changed":
            return self.tools
        if method == "notifications/prompts/list_changed":
            return self.prompts
        if method == "notifications/resources/list_changed":
            return self.resources
        if method != "notifications/resources/updated" or uri is None:
            return False
        return any(uri == wanted or uri.startswith(wanted.rstrip("/") + "/") for wanted in self.uris)


def read_filter(request: ModernRequest) -> ListenFilter:
    """Read what a `subscriptions/listen` asks for. Members that we do not know ask for nothing of ours.

    Raises:
        LocalProtocolError: A member is of another type than the specification says, or there are too
            many URIs, see `modern.MAX_ELEMENTS` (-32602).
    """
    wanted = object_members(request.params.get("notifications"))
    if wanted is None:
        raise _refusal("expected an object as params.notifications", request.id)
    return ListenFilter(
        tools=_flag(request.id, wanted, "toolsListChanged"),
        prompts=_flag(request.id, wanted, "promptsListChanged"),
        resources=_flag(request.id, wanted, "resourcesListChanged"),
        uris=_uris(request.id, wanted),
    )


def supported_by(wanted: ListenFilter, capabilities: Members) -> ListenFilter:
    """Return what of it a legacy child with these capabilities can do."""
    subscribe = _declares(capabilities, "resources", "subscribe")
    return ListenFilter(
        tools=wanted.tools and _declares(capabilities, "tools", "listChanged"),
        prompts=wanted.prompts and _declares(capabilities, "prompts", "listChanged"),
        resources=wanted.resources and _declares(capabilities, "resources", "listChanged"),
        uris=wanted.uris if subscribe else (),
    )


def tag(message: Members, subscription_id: bytes) -> Members:
    """Return a notification as it stands on a listen stream.

    Args:
        message: All members of its envelope.
        subscription_id: The JSON token of the id of the request that opened the stream.
    """
    params = object_members(message.get("params")) or {}
    return {**message, "params": msgspec.Raw(encode(tag_result(params, subscription_id)))}


def tag_result(result: Members, subscription_id: bytes) -> Members:
    """Return the result of a `subscriptions/listen` with the id of its request in `_meta`."""
    meta = object_members(result.get("_meta")) or {}
    meta[META_SUBSCRIPTION_ID] = msgspec.Raw(subscription_id)
    return {**result, "_meta": msgspec.Raw(encode(meta))}


def acknowledgement(subscription_id: bytes, accepted: ListenFilter) -> bytes:
    """Return the first message of a listen stream, encoded: what will come on it."""
    message: Members = {
        "jsonrpc": raw("2.0"),
        "method": raw("notifications/subscriptions/acknowledged"),
        "params": raw({"notifications": accepted.as_json()}),
    }
    return encode(tag(message, subscription_id))


def graceful_result(request_id: bytes, server_info: msgspec.Raw | None) -> bytes:
    """Return the last message of a listen stream that we end, encoded."""
    result = fill_result(LISTEN, tag_result({}, request_id), server_info)
    return result_response(request_id, result)


def _flag(request_id: bytes, members: Members, name: str) -> bool:
    value = bytes(members.get(name, b"false"))
    if value not in {b"true", b"false"}:
        raise _refusal(f"expected a boolean as params.notifications.{name}", request_id)
    return value == b"true"


def _uris(request_id: bytes, members: Members) -> tuple[str, ...]:
    name = "resourceSubscriptions"
    uris = string_elements(members[name]) if name in members else ()
    if uris is None:
        what = f"an array of strings, at most {MAX_ELEMENTS} of them"
        raise _refusal(f"expected {what}, as params.notifications.{name}", request_id)
    return tuple(dict.fromkeys(uris))


def _declares(capabilities: Members, feature: str, name: str) -> bool:
    return (object_members(capabilities.get(feature)) or {}).get(name) == _RAW_TRUE


def _refusal(message: str, request_id: bytes) -> LocalProtocolError:
    return LocalProtocolError(message, code=INVALID_PARAMS, request_id=request_id)
