"""What a legacy child says, for a modern client; and what a sloppy modern child left out. Pure.

A legacy child asks its client in requests of its own; to a modern client that becomes a result with
questions in it. Nothing that is there is overwritten, and what is unknown crosses untouched.

Source: MCP 2026-07-28, basic, "Responses"; basic/patterns/mrtr; server/utilities/caching; changelog.
"""

import functools
from collections.abc import Mapping

import msgspec

from ..errors import LocalProtocolError
from .capabilities import ELICIT, LIST_ROOTS, SAMPLE
from .jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Members,
    Request,
    encode,
    object_members,
    raw,
    string_member,
)
from .modern import (
    CACHEABLE,
    COMPLETE,
    DISCOVER,
    INPUT_REQUIRED,
    MAX_QUESTIONS,
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_SERVER_INFO,
    META_VERSION,
    RESERVED_PREFIX,
    RESOURCE_NOT_FOUND,
    URL_ELICITATION_REQUIRED,
    ModernRequest,
    array_elements,
)
from .revisions import MODERN_VERSIONS, Revision

__all__ = [
    "check_input_responses",
    "check_response",
    "discover_result",
    "error_for_modern",
    "fill_result",
    "input_request",
    "input_required",
    "params_for_child",
    "result_for_modern",
    "url_elicitations",
]

# What of a legacy question, or of an elicitation in an error, has no meaning to a modern client.
_LEGACY_PARAMS = frozenset({"_meta", "elicitationId", "task"})

# What `_meta` of a request holds, nearly always.
_REQUEST_META = frozenset(
    {"progressToken", META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, META_VERSION}
)

#: Longest name and version of a server that are kept as the `_meta` of its answers.
MAX_REMEMBERED_BYTES = 1024

_ACTIONS = frozenset({"accept", "decline", "cancel"})
_ROLES = frozenset({"user", "assistant"})

_RAW_COMPLETE = msgspec.Raw(b'"complete"')
_ELICIT_METHOD = msgspec.Raw(b'"elicitation/create"')
_URL_MODE = msgspec.Raw(b'"url"')


def discover_result(initialize_result: Members) -> Members:
    """Return what a legacy child answered to `initialize` as the answer to `server/discover`.

    Its tasks are not the ones of the tasks extension, so they are not offered.
    """
    result = {
        name: value
        for name, value in initialize_result.items()
        if name not in {"protocolVersion", "serverInfo"}
    }
    result["supportedVersions"] = raw(MODERN_VERSIONS)
    capabilities = object_members(result.get("capabilities")) or {}
    capabilities.pop("tasks", None)
    result["capabilities"] = msgspec.Raw(encode(capabilities))
    return fill_result(DISCOVER, result, initialize_result.get("serverInfo"))


def params_for_child(request: ModernRequest, revision: Revision) -> Members:
    """Return a modern request's params for a legacy child, without a progress token.

    Args:
        request: What the client sent.
        revision: What was agreed on with the child.
    """
    params = request.params.copy()
    for unknown in ("_meta", "inputResponses", "requestState"):
        params.pop(unknown, None)
    if request.method == "tools/call":
        # It asked an older server to make a task of the call; a modern one ignores it (SEP-2663).
        params.pop("task", None)
    if request.method == "completion/complete" and not revision.completion_context:
        params.pop("context", None)
    if request.meta.keys() <= _REQUEST_META:
        return params
    meta = {
        name: value
        for name, value in request.meta.items()
        if name != "progressToken" and not name.startswith(RESERVED_PREFIX)
    }
    if meta:
        params["_meta"] = msgspec.Raw(encode(meta))
    return params


def fill_result(method: str, result: Members, server_info: msgspec.Raw | None) -> Members:
    """Return a result with what every result of its method must have; what is there stays as it is.

    Args:
        method: What it is the result of.
        result: What the child sent.
        server_info: Name and version of the child, or None.
    """
    filled = {"resultType": _RAW_COMPLETE, **result}
    if server_info is not None and "_meta" not in result:
        filled["_meta"] = _meta_of_server(server_info)
    elif server_info is not None:
        meta = object_members(result["_meta"])
        if meta is not None and META_SERVER_INFO not in meta:
            filled["_meta"] = msgspec.Raw(encode({**meta, META_SERVER_INFO: server_info}))
    # A result that asks for input is not to be kept, so it does not say for how long.
    if method in CACHEABLE and string_member(filled, "resultType") == COMPLETE:
        filled.setdefault("ttlMs", msgspec.Raw(b"0"))
        filled.setdefault("cacheScope", msgspec.Raw(b'"private"'))
    return filled


def _meta_of_server(server_info: msgspec.Raw) -> msgspec.Raw:
    """Return a `_meta` with nothing in it but who the server is: the same for nearly all of its answers."""
    if len(server_info) > MAX_REMEMBERED_BYTES:
        return msgspec.Raw(encode({META_SERVER_INFO: server_info}))
    return _remembered_meta(bytes(server_info))


@functools.lru_cache(maxsize=64)
def _remembered_meta(server_info: bytes) -> msgspec.Raw:
    return msgspec.Raw(encode({META_SERVER_INFO: msgspec.Raw(server_info)}))


def result_for_modern(method: str, result: Members, server_info: msgspec.Raw | None) -> Members:
    """Return a legacy child's result for a modern client. The arguments are those of `fill_result`."""
    filled = fill_result(method, result, server_info)
    if method == "tools/list" and "tools" in result:
        filled["tools"] = _without_execution(result["tools"])
    return filled


def error_for_modern(error: Members) -> Members:
    """Return a legacy child's error for a modern client, which must not see two of the old codes.

    `url_elicitations` comes first: only what it cannot make use of should get here with that code.
    """
    code = _code(error)
    if code == RESOURCE_NOT_FOUND:
        return {**error, "code": raw(INVALID_PARAMS)}
    if code == URL_ELICITATION_REQUIRED:
        return {**error, "code": raw(INTERNAL_ERROR)}
    return dict(error)


def input_request(question: Request) -> Members:
    """Return a legacy child's question as it stands in a result that asks for input."""
    embedded = {"method": question.members["method"]}
    if question.method != LIST_ROOTS and "params" in question.members:
        params = object_members(question.members["params"])
        # What is no object is the client's to refuse.
        embedded["params"] = question.members["params"] if params is None else _modern_params(params)
    return embedded


def input_required(
    requests: Mapping[str, Members], request_state: str | None, server_info: msgspec.Raw | None
) -> Members:
    """Return the result that asks for input.

    Args:
        requests: The questions, by the keys that their answers will have.
        request_state: What the client is to give back with the answers, or None.
        server_info: Name and version of the child, or None.
    """
    result: Members = {"resultType": raw(INPUT_REQUIRED)}
    if requests:
        result["inputRequests"] = raw(requests)
    if request_state is not None:
        result["requestState"] = raw(request_state)
    return fill_result("tools/call", result, server_info)


def url_elicitations(error: Members) -> list[Members] | None:
    """Return the questions that a "URL elicitation required" error stands for; None if it is none.

    Also None if one of them lacks what a question must have, or they are too many (`MAX_QUESTIONS`).
    Source: MCP 2025-11-25, client/elicitation, "URL Elicitation Required Error".
    """
    if _code(error) != URL_ELICITATION_REQUIRED:
        return None
    data = object_members(error.get("data")) or {}
    elements = array_elements(data.get("elicitations"))
    if not elements or len(elements) > MAX_QUESTIONS:
        return None
    questions = [question for element in elements if (question := _url_question(element)) is not None]
    return questions if len(questions) == len(elements) else None


def check_input_responses(responses: Members) -> None:
    """Check the shape of the answers to questions that may be any.

    Raises:
        LocalProtocolError: One of them is no object, or has an `action` and is no answer to an
            elicitation all the same (-32602).
    """
    for key, response in responses.items():
        answer = object_members(response)
        if answer is None:
            raise _refusal(f"expected an object as the answer {key!r} in inputResponses")
        if "action" in answer:
            _check_elicited(answer)


def check_response(method: str, response: Members) -> None:
    """Check the answer to a question of this method.

    Raises:
        LocalProtocolError: It lacks what it must have, or has it of another type (-32602).
    """
    if method == ELICIT:
        _check_elicited(response)
    elif method == SAMPLE:
        _check_sampled(response)
    elif method == LIST_ROOTS and not _starts_with(response, "roots", b"["):
        raise _refusal('expected an array as "roots" in the answer to roots/list')


def _url_question(elicitation: msgspec.Raw) -> Members | None:
    # They need not say their mode: no other can stand here.
    params = {"mode": _URL_MODE, **(object_members(elicitation) or {})}
    if string_member(params, "mode") != "url":
        return None
    if string_member(params, "url") is None or string_member(params, "message") is None:
        return None
    return {"method": _ELICIT_METHOD, "params": _modern_params(params)}


def _modern_params(params: Members) -> msgspec.Raw:
    return msgspec.Raw(encode({name: value for name, value in params.items() if name not in _LEGACY_PARAMS}))


def _without_execution(tools: msgspec.Raw) -> msgspec.Raw:
    """Return tools without the word on how they run as tasks, which are none of this revision."""
    if b'"execution"' not in bytes(tools):
        return tools
    # Too many of them to look into: a member that the client does not know harms nobody.
    elements = array_elements(tools)
    return tools if elements is None else raw([_without(element, "execution") for element in elements])


def _without(element: msgspec.Raw, name: str) -> msgspec.Raw:
    members = object_members(element)
    if members is None or name not in members:
        return element
    del members[name]
    return msgspec.Raw(encode(members))


def _check_elicited(answer: Members) -> None:
    if string_member(answer, "action") not in _ACTIONS:
        raise _refusal(f'expected one of {", ".join(sorted(_ACTIONS))} as "action" of an answer')
    if "content" in answer and not _starts_with(answer, "content", b"{"):
        raise _refusal('expected an object as "content" of an answer to elicitation/create')


def _check_sampled(answer: Members) -> None:
    if string_member(answer, "role") not in _ROLES:
        raise _refusal('expected "user" or "assistant" as "role" of an answer to sampling/createMessage')
    if string_member(answer, "model") is None:
        raise _refusal('expected a string as "model" of an answer to sampling/createMessage')
    if not _starts_with(answer, "content", b"{["):
        raise _refusal('expected an object or an array as "content" of an answer to sampling/createMessage')


def _starts_with(members: Members, name: str, characters: bytes) -> bool:
    # A raw value is valid JSON and has no space around it, so its first byte tells its type.
    return name in members and memoryview(members[name])[0] in characters


def _code(error: Members) -> int | None:
    code = bytes(error.get("code", b""))
    return {str(known).encode(): known for known in (RESOURCE_NOT_FOUND, URL_ELICITATION_REQUIRED)}.get(code)


def _refusal(message: str, request_id: bytes | None = None) -> LocalProtocolError:
    return LocalProtocolError(message, code=INVALID_PARAMS, request_id=request_id)
