"""What is known of a server, and what its refusals say."""

import json

import msgspec
import pytest

from stdio_broker.protocol.jsonrpc import Members
from stdio_broker.sessions import ServerFacts
from stdio_broker.sessions.facts import MAX_SILENCES, MIN_DISCOVER_TIMEOUT, refuses_for_being_modern


def _error(code: int, message: str = "no", data: object = None) -> Members:
    members = {"code": code, "message": message, "data": data}
    return msgspec.json.decode(json.dumps(members).encode(), type=Members)


@pytest.mark.parametrize(
    ("error", "modern"),
    [
        (_error(-32022), True),
        (_error(-32022, data={"supported": ["2026-07-28"]}), True),
        (_error(-32601), True),
        (_error(-32602, "this server speaks 2026-07-28"), True),
        (_error(-32602, data={"supported": ["2026-07-28"]}), True),
        (_error(-32602, "a version of 1999-01-01"), False),
        (_error(-32600, "send 2026-07-28"), False),
        (_error(-32603, "2026-07-28 is the day after tomorrow"), False),
        ({}, False),
    ],
)
def test_a_refusal_of_initialize_shows_whether_the_server_is_too_new_for_it(
    error: Members,
    modern: bool,  # noqa: FBT001
) -> None:
    """MCP 2026-07-28, basic/versioning, "Backward Compatibility": it SHOULD name its versions."""
    assert refuses_for_being_modern(error) is modern


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        (ServerFacts(), 60.0),
        (ServerFacts(handshake_seconds=0.01), MIN_DISCOVER_TIMEOUT),
        (ServerFacts(handshake_seconds=3.0), 15.0),
        (ServerFacts(handshake_seconds=30.0), 60.0),
        (ServerFacts(handshake_seconds=0.01, speaks_modern=True), 60.0),
        (ServerFacts(handshake_seconds=0.01, speaks_modern=False), MIN_DISCOVER_TIMEOUT),
    ],
)
def test_how_long_silence_is_listened_to_depends_on_what_is_known(facts: ServerFacts, seconds: float) -> None:
    """protocol.md, 2.1: only a silent legacy server pays the start-up deadline."""
    assert facts.discover_timeout(60.0) == seconds


def test_silence_is_doubted_until_it_was_heard_too_often() -> None:
    """protocol.md, 2.1: no *for this start*."""
    facts = ServerFacts()
    for silences in range(1, MAX_SILENCES):
        facts.note_silence()
        assert (facts.speaks_modern, facts.silences) == (False, silences)
        facts.doubt_silence()
        assert (facts.speaks_modern, facts.silences) == (None, silences)
    facts.note_silence()
    facts.doubt_silence()
    assert (facts.speaks_modern, facts.silences) == (False, MAX_SILENCES)


def test_a_refusal_is_not_doubted_and_an_answer_is_believed() -> None:
    """protocol.md, D2."""
    facts = ServerFacts(foreign_versions=("2099-01-01",))
    facts.note_refusal()
    facts.doubt_silence()
    assert (facts.speaks_modern, facts.silences) == (False, MAX_SILENCES)
    facts.note_modern()
    facts.doubt_silence()
    assert (facts.speaks_modern, facts.silences, facts.foreign_versions) == (True, 0, ())
