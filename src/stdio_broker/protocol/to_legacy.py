"""What a modern child says, for a legacy client. Pure.

A modern child asks in its results; a legacy client is asked in requests, and its answers go back with
the call repeated. What only the modern revision has is taken off; what is unknown crosses untouched.

Source: MCP 2026-07-28, basic/patterns/mrtr; MCP 2025-11-25, schema, InitializeResult, Tool,
CallToolResult and ElicitRequestURLParams.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ..errors import RemoteProtocolError
from .capabilities import ELICIT, LIST_ROOTS, QUESTION_METHODS, ClientCapabilities
from .jsonrpc import INTERNAL_ERROR, Members, Notification, encode, object_members, raw, string_member
from .modern import (
    COMPLETE,
    MAX_QUESTIONS,
    META_SERVER_INFO,
    META_SUBSCRIPTION_ID,
    Discovery,
    array_elements,
)
from .revisions import Revision, clamp

__all__ = [
    "InputRound",
    "Question",
    "can_ask",
    "initialize_result",
    "notification_for_legacy",
    "question_for_client",
    "read_input_required",
    "result_for_legacy",
    "result_kind",
    "retry_params",
]

# What every result of the modern revision has, and none before it.
_MODERN_MEMBERS = ("resultType", "ttlMs", "cacheScope")


@dataclass(frozen=True, slots=True)
class Question:
    """What a modern child asks of its client.

    Attributes:
        method: One of `capabilities.QUESTION_METHODS`.
        params: Its params; None if there are none, which only `roots/list` can do without.
    """

    method: str
    params: Members | None


@dataclass(frozen=True, slots=True)
class InputRound:
    """What a result that asks for input holds; at least one of the two.

    Attributes:
        requests: The questions, by the keys that their answers must have; at most
            `modern.MAX_QUESTIONS`.
        state: The string to give back with the answers, to the byte, or None.
    """

    requests: dict[str, Question]
    state: msgspec.Raw | None


def initialize_result(discovery: Discovery, requested_version: str) -> Members:
    """Return what a modern child told of itself as the answer to `initialize`.

    Args:
        discovery: What it told.
        requested_version: What the client asked for; one that we do not know gets the newest that we
            do (MCP 2025-11-25, basic/lifecycle, "Version Negotiation").
    """
    result = _without_modern_members(discovery.result)
    result.pop("supportedVersions", None)
    capabilities = object_members(discovery.capabilities) or {}
    capabilities.pop("extensions", None)
    result["protocolVersion"] = raw(clamp(requested_version))
    result["capabilities"] = msgspec.Raw(encode(capabilities))
    # Both are required here, and the modern revision does not require that a server names itself.
    info: Members = {"name": raw("server"), "version": raw("unknown")}
    info.update(object_members(discovery.server_info) or {})
    result["serverInfo"] = msgspec.Raw(encode(info))
    return result


def result_for_legacy(method: str, result: Members) -> Members:
    """Return a modern child's complete result for a legacy client, of whichever revision.

    Output that is no object goes, and so does its schema: up to 2025-11-25 there is no other.

    Args:
        method: What it is the result of.
        result: What the child sent.
    """
    legacy = _without_modern_members(result)
    if method == "tools/call" and object_members(legacy.get("structuredContent")) is None:
        legacy.pop("structuredContent", None)
    if method == "tools/list" and "tools" in legacy:
        legacy["tools"] = _with_legacy_schemas(legacy["tools"])
    return legacy


def result_kind(result: Members) -> str:
    """Return the type of a result: complete if it does not say, and empty if it says no string.

    An unknown type is as good as none: the result is invalid (MCP 2026-07-28, basic, "ResultType").
    """
    if "resultType" not in result:
        return COMPLETE
    return string_member(result, "resultType") or ""


def read_input_required(result: Members) -> InputRound:
    """Read a result that asks for input.

    Raises:
        RemoteProtocolError: It asks for nothing, or for something that no client can be asked, or for
            too much at once.
    """
    state = result.get("requestState")
    if state is not None and string_member(result, "requestState") is None:
        raise _fault("a requestState that is no string")
    embedded = object_members(result["inputRequests"]) if "inputRequests" in result else {}
    if embedded is None:
        raise _fault("inputRequests that are no object")
    if not embedded and state is None:
        raise _fault("neither inputRequests nor a requestState")
    if len(embedded) > MAX_QUESTIONS:
        raise _fault(f"more than {MAX_QUESTIONS} inputRequests")
    return InputRound({key: _question(value) for key, value in embedded.items()}, state)


def question_for_client(question: Question, *, elicitation_id: str) -> Members:
    """Return method and params of the request that puts a question to a legacy client.

    Args:
        question: What the child asks.
        elicitation_id: Unique; for a question that sends the user to a page. A modern one has none,
            and an older client requires it.
    """
    message: Members = {"method": raw(question.method)}
    if question.params is None:
        return message
    params = dict(question.params)
    if question.method == ELICIT and string_member(params, "mode") == "url":
        params["elicitationId"] = raw(elicitation_id)
    message["params"] = msgspec.Raw(encode(params))
    return message


def can_ask(question: Question, capabilities: ClientCapabilities, revision: Revision) -> str | None:
    """Return why a legacy client cannot be asked this, in words; None if it can.

    Args:
        question: What the child asks.
        capabilities: What the client declared.
        revision: What was agreed on with it.
    """
    missing = capabilities.missing_for(question.method, question.params)
    if missing is not None:
        return f"the client does not declare {_in_words(missing)}"
    missing = capabilities.narrowed(revision).missing_for(question.method, question.params)
    if missing is not None:
        return f"the client speaks MCP {revision.version}, which has no {_in_words(missing)}"
    return None


def retry_params(params: Members, responses: Mapping[str, msgspec.Raw], state: msgspec.Raw | None) -> Members:
    """Return a request's params for its repetition, with the answers.

    Args:
        params: What the request was sent with; answers and state of an earlier round are replaced.
        responses: The answers, by the keys of the questions.
        state: What came with the questions. Without one there must be none here either (MCP
            2026-07-28, basic/patterns/mrtr).
    """
    repeated = {
        name: value for name, value in params.items() if name not in {"inputResponses", "requestState"}
    }
    if responses:
        repeated["inputResponses"] = msgspec.Raw(encode(responses))
    if state is not None:
        repeated["requestState"] = state
    return repeated


def notification_for_legacy(notification: Notification) -> bytes:
    """Return what came on a listen stream for a client that knows no such streams, encoded."""
    members = dict(notification.members)
    params = object_members(members.get("params"))
    meta = object_members((params or {}).get("_meta"))
    if params is None or meta is None or META_SUBSCRIPTION_ID not in meta:
        return encode(members)
    _put_back(params, "_meta", meta, without=META_SUBSCRIPTION_ID)
    members["params"] = msgspec.Raw(encode(params))
    return encode(members)


def _without_modern_members(result: Members) -> Members:
    legacy = result.copy()
    for name in _MODERN_MEMBERS:
        legacy.pop(name, None)
    meta = object_members(legacy.get("_meta"))
    if meta is not None and META_SERVER_INFO in meta:
        _put_back(legacy, "_meta", meta, without=META_SERVER_INFO)
    return legacy


def _put_back(members: Members, name: str, inner: Members, *, without: str) -> None:
    """Write an inner object anew without one of its members, or not at all if that empties it."""
    del inner[without]
    if inner:
        members[name] = msgspec.Raw(encode(inner))
    else:
        del members[name]


def _with_legacy_schemas(tools: msgspec.Raw) -> msgspec.Raw:
    if b'"outputSchema"' not in bytes(tools):
        return tools
    elements = array_elements(tools)
    # Too many of them to look into: then the client has to cope with what it may not know.
    return tools if elements is None else raw([_with_legacy_schema(element) for element in elements])


def _with_legacy_schema(tool: msgspec.Raw) -> msgspec.Raw:
    members = object_members(tool)
    if members is None or "outputSchema" not in members:
        return tool
    if string_member(object_members(members["outputSchema"]), "type") == "object":
        return tool
    del members["outputSchema"]
    return msgspec.Raw(encode(members))


def _question(value: msgspec.Raw) -> Question:
    request = object_members(value)
    method = string_member(request, "method")
    if request is None or method not in QUESTION_METHODS:
        raise _fault("an inputRequest that is no request a client can be asked")
    params = object_members(request.get("params"))
    if params is None and ("params" in request or method != LIST_ROOTS):
        raise _fault(f"a {method} whose params are no object")
    return Question(method, params)


def _in_words(capabilities: Mapping[str, object]) -> str:
    """Name capabilities as they are written with dots: `elicitation.url`."""
    words = []
    for name, inner in capabilities.items():
        names = inner if isinstance(inner, dict) else {}
        words += [f"{name}.{part}" for part in names] or [name]
    return " and ".join(words)


def _fault(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"the server's answer asks for input with {what}", code=INTERNAL_ERROR)
