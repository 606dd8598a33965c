"""The one table from what went wrong to an HTTP status and a JSON-RPC code."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from stdio_broker import errors
from stdio_broker.http.faults import FAULTS, answer_to
from stdio_broker.http.guards import Refused
from stdio_broker.http.wire import PayloadTooLarge

NO_ROOM = errors.CapacityError("/secret/path", "no room", resource="processes", used=9, limit=10)


def error_types(root: type[Exception] = errors.BrokerError) -> Iterator[type[Exception]]:
    """Yield every error of ours."""
    yield root
    for kind in root.__subclasses__():
        yield from error_types(kind)


@pytest.mark.parametrize("kind", list(error_types()))
def test_every_error_of_ours_has_a_row(kind: type[Exception]) -> None:
    """Style guide, "Errors": statuses and codes live in one table."""
    assert any(issubclass(kind, row) for row, _, _ in FAULTS)


@pytest.mark.parametrize("earlier", range(len(FAULTS)))
def test_no_row_hides_a_later_one(earlier: int) -> None:
    """The first row that fits counts, so a root must stand behind its branches."""
    assert not [later for later, _, _ in FAULTS[earlier + 1 :] if issubclass(later, FAULTS[earlier][0])]


@pytest.mark.parametrize(
    ("exc", "status", "code"),
    [
        (errors.LocalProtocolError("x", code=-32602), 400, -32602),
        (errors.SessionNotFound(), 404, -32600),
        (PayloadTooLarge(), 413, -32600),
        (errors.LimitReached("x", retry_after=2), 503, -32603),
        (errors.Draining(), 503, -32603),
        (errors.SpawnError("/secret/path", "no such file"), 200, -32603),
        (NO_ROOM, 503, -32603),
        (errors.StartTimeout(3), 200, -32603),
        (errors.RemoteProtocolError("x", code=-32603), 200, -32603),
        (errors.BridgeBroken("x"), 200, -32603),
        (errors.ConfigError("x"), 500, -32603),
        (Refused(406, "x"), 406, -32600),
    ],
)
def test_what_went_wrong_is_answered_as_protocol_md_says(exc: Exception, status: int, code: int) -> None:
    """protocol.md, 9."""
    answer = answer_to(exc, b'"the id"')
    error = json.loads(answer.body)
    assert (answer.status, error["error"]["code"]) == (status, code)
    assert error["error"]["message"]
    assert (b"content-type", b"application/json") in answer.headers
    assert b"secret" not in answer.body


@pytest.mark.parametrize(("seconds", "field"), [(0.0, b"1"), (0.4, b"1"), (2.0, b"2"), (29.6, b"30")])
def test_retry_after_is_in_whole_seconds_and_never_zero(seconds: float, field: bytes) -> None:
    """RFC 9110, 10.2.3; a zero would be an invitation to try at once."""
    answer = answer_to(errors.LimitReached("x", retry_after=seconds), None)
    assert (b"retry-after", field) in answer.headers


def test_a_machine_without_room_says_when_to_come_back() -> None:
    """Design, decision 12: 503 with Retry-After."""
    assert (b"retry-after", b"5") in answer_to(NO_ROOM, None).headers


def test_the_id_that_the_parser_found_is_used_when_there_is_no_better_one() -> None:
    """JSON-RPC 2.0, 5: the id of the request where it could be told, else null."""
    exc = errors.LocalProtocolError("x", code=-32600, request_id=b"7", data=b'{"a":1}')
    assert json.loads(answer_to(exc, None).body)["id"] == 7
    assert json.loads(answer_to(exc, b"8").body)["id"] == 8
    assert json.loads(answer_to(exc, None).body)["error"]["data"] == {"a": 1}
    assert json.loads(answer_to(errors.SessionNotFound(), None).body)["id"] is None
