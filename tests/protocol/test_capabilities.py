"""What a client can be asked for: read from both eras, written for both, compared with questions."""

import dataclasses
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.protocol.capabilities import (
    MAX_REMEMBERED_BYTES,
    QUESTION_METHODS,
    ClientCapabilities,
    declared_capabilities,
    modern_capabilities,
    read_legacy,
    read_modern,
)
from stdio_broker.protocol.jsonrpc import Members
from stdio_broker.protocol.revisions import LATEST, REVISIONS

from .strategies import json_values

NEWEST = REVISIONS[LATEST]
OLD = REVISIONS["2025-03-26"]
FORMS_ONLY = REVISIONS["2025-06-18"]
NOTHING = ClientCapabilities()

capabilities = st.builds(ClientCapabilities, **dict.fromkeys(ClientCapabilities.__slots__, st.booleans()))


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def _params(value: object) -> Members:
    return msgspec.json.decode(json.dumps(value), type=Members)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, NOTHING),
        ({"elicitation": {}}, ClientCapabilities(form=True)),
        ({"elicitation": {"form": {}}}, ClientCapabilities(form=True)),
        ({"elicitation": {"url": {}}}, ClientCapabilities(url=True)),
        ({"elicitation": {"form": {}, "url": {"x": 1}}}, ClientCapabilities(form=True, url=True)),
        ({"elicitation": {"voice": {}}}, ClientCapabilities(form=True)),
        ({"sampling": {}}, ClientCapabilities(sampling=True)),
        ({"sampling": {"tools": {}}}, ClientCapabilities(sampling=True, sampling_tools=True)),
        ({"sampling": {"context": {}}}, ClientCapabilities(sampling=True, sampling_context=True)),
        ({"roots": {}}, ClientCapabilities(roots=True)),
        ({"extensions": {"a/b": {}}, "tasks": {}}, NOTHING),
    ],
)
def test_what_a_modern_request_declares_is_read_and_an_elicitation_without_a_mode_means_forms(
    declared: object, expected: ClientCapabilities
) -> None:
    """MCP 2026-07-28, client/{elicitation,sampling,roots}, "Capabilities"."""
    assert read_modern(_raw(declared)) == expected
    assert declared_capabilities(_raw(declared)) == expected
    long = _raw({**declared, "experimental": {"x": "y" * MAX_REMEMBERED_BYTES}})  # type: ignore[dict-item]
    assert declared_capabilities(long) == expected


def test_what_was_read_once_is_the_same_value_the_next_time() -> None:
    """Ours: clients say the same with every request. What is long is not kept for that."""
    short, long = _raw({"roots": {}}), _raw({"roots": {"x": "y" * MAX_REMEMBERED_BYTES}})
    assert declared_capabilities(short) is declared_capabilities(short.copy())
    assert declared_capabilities(long) is not declared_capabilities(long)


@pytest.mark.parametrize("declared", [None, 1, "roots", ["roots"], [{}] * MAX_REMEMBERED_BYTES])
def test_what_is_no_object_is_no_declaration(declared: object) -> None:
    """MCP 2026-07-28, basic, "_meta": it must be one."""
    assert declared_capabilities(_raw(declared)) is None


@pytest.mark.parametrize(
    "declared",
    [
        [],
        1,
        {"elicitation": True, "sampling": [], "roots": None},
        {"sampling": "tools", "elicitation": False},
    ],
)
def test_what_is_declared_in_another_type_is_not_declared(declared: object) -> None:
    """Our rule: a question that the client did not ask for is worse than one that is not put."""
    assert read_modern(_raw(declared)) == NOTHING


def test_a_mode_of_another_type_is_not_declared() -> None:
    assert read_modern(_raw({"elicitation": {"form": {}, "url": True}})) == ClientCapabilities(form=True)


def test_equal_capabilities_are_one_key() -> None:
    """Our rule: clients that can do the same share a child."""
    one = read_modern(_raw({"elicitation": {}, "roots": {"x": 1}}))
    two = read_modern(_raw({"roots": {}, "elicitation": {"form": {}}}))
    assert {one: "child"}[two] == "child"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2024-11-05", ClientCapabilities(sampling=True, sampling_context=True, roots=True)),
        ("2025-03-26", ClientCapabilities(sampling=True, sampling_context=True, roots=True)),
        ("2025-06-18", ClientCapabilities(form=True, sampling=True, sampling_context=True, roots=True)),
        ("2025-11-25", ClientCapabilities(url=True, sampling=True, sampling_tools=True, roots=True)),
    ],
)
def test_what_a_legacy_client_declared_means_what_its_revision_says(
    version: str, expected: ClientCapabilities
) -> None:
    """MCP 2025-11-25, changelog: modes and tools are new there; before, `sampling` allowed any context."""
    declared = {"elicitation": {"url": {}}, "sampling": {"tools": {}}, "roots": {"listChanged": True}}
    assert read_legacy(_raw(declared), REVISIONS[version]) == expected


def test_a_legacy_client_without_sampling_gives_no_context() -> None:
    assert read_legacy(_raw({"elicitation": {}}), FORMS_ONLY) == ClientCapabilities(form=True)


@given(capabilities=capabilities)
def test_what_is_declared_to_a_legacy_child_is_what_it_reads(capabilities: ClientCapabilities) -> None:
    """MCP 2025-11-25, schema, ClientCapabilities."""
    consistent = dataclasses.replace(
        capabilities,
        sampling_tools=capabilities.sampling_tools and capabilities.sampling,
        sampling_context=capabilities.sampling_context and capabilities.sampling,
    )
    assert read_legacy(_raw(consistent.for_initialize()), NEWEST) == consistent


def test_a_legacy_child_is_told_the_newest_way_and_nothing_of_tasks_or_extensions() -> None:
    """Our rule (matrix, 4.1): roots do not change, and what cannot cross is not declared."""
    everything = ClientCapabilities(**dict.fromkeys(ClientCapabilities.__slots__, True))
    assert everything.for_initialize() == {
        "elicitation": {"form": {}, "url": {}},
        "sampling": {"tools": {}, "context": {}},
        "roots": {"listChanged": False},
    }
    assert NOTHING.for_initialize() == {}
    assert ClientCapabilities(url=True, sampling=True).for_initialize() == {
        "elicitation": {"url": {}},
        "sampling": {},
    }


@given(capabilities=capabilities)
def test_an_older_revision_has_less(capabilities: ClientCapabilities) -> None:
    """MCP, changelogs of 2025-06-18 (elicitation) and 2025-11-25 (modes, tools)."""
    assert capabilities.narrowed(NEWEST) == capabilities
    forms_only = capabilities.narrowed(FORMS_ONLY)
    assert forms_only == dataclasses.replace(capabilities, url=False, sampling_tools=False)
    assert capabilities.narrowed(OLD) == dataclasses.replace(forms_only, form=False)


FORM: dict[str, object] = {"elicitation": {"form": {}}}
URL: dict[str, object] = {"elicitation": {"url": {}}}


@pytest.mark.parametrize(
    ("method", "params", "covered_by", "missing"),
    [
        ("elicitation/create", {}, {"form": True}, FORM),
        ("elicitation/create", None, {"form": True}, FORM),
        ("elicitation/create", {"mode": "form"}, {"form": True}, FORM),
        ("elicitation/create", {"mode": "url"}, {"url": True}, URL),
        ("sampling/createMessage", None, {"sampling": True}, {"sampling": {}}),
        ("sampling/createMessage", {"includeContext": "none"}, {"sampling": True}, {"sampling": {}}),
        ("sampling/createMessage", {"tools": None}, {"sampling": True}, {"sampling": {}}),
        (
            "sampling/createMessage",
            {"tools": []},
            {"sampling": True, "sampling_tools": True},
            {"sampling": {"tools": {}}},
        ),
        (
            "sampling/createMessage",
            {"toolChoice": {"mode": "none"}, "includeContext": "allServers"},
            {"sampling": True, "sampling_tools": True, "sampling_context": True},
            {"sampling": {"tools": {}, "context": {}}},
        ),
        (
            "sampling/createMessage",
            {"includeContext": "thisServer"},
            {"sampling": True, "sampling_context": True},
            {"sampling": {"context": {}}},
        ),
        ("roots/list", None, {"roots": True}, {"roots": {}}),
    ],
)
def test_a_question_needs_its_capability_and_what_is_missing_is_named(
    method: str, params: object, covered_by: dict[str, bool], missing: dict[str, object]
) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: MUST NOT ask what was not declared; `requiredCapabilities`."""
    members = None if params is None else _params(params)
    assert method in QUESTION_METHODS
    assert ClientCapabilities(**covered_by).missing_for(method, members) is None
    all_but_these = {name: name not in covered_by for name in ClientCapabilities.__slots__}
    assert ClientCapabilities(**all_but_these).missing_for(method, members) == missing


def test_only_the_part_of_sampling_that_is_missing_is_named() -> None:
    plain = ClientCapabilities(sampling=True, sampling_context=True)
    params = _params({"tools": [], "includeContext": "thisServer"})
    assert plain.missing_for("sampling/createMessage", params) == {"sampling": {"tools": {}}}


@pytest.mark.parametrize(
    ("method", "params"), [("acme/ask", None), ("elicitation/create", {"mode": "voice"})]
)
@given(capabilities=capabilities)
def test_nothing_covers_what_we_do_not_know(
    method: str, params: object, capabilities: ClientCapabilities
) -> None:
    """Our rule: an unknown question is refused, never put."""
    assert capabilities.missing_for(method, None if params is None else _params(params))


def test_what_a_legacy_client_declares_is_passed_on_without_what_is_gone() -> None:
    """Our rule (matrix, 5); MCP 2026-07-28, changelog: no change of roots, no tasks."""
    declared = b"""{"elicitation": { "form":{}, "url":{}, "voice":1.00 }, "sampling":{"tools":{}, "x":2.0},
        "roots":{"listChanged":true,"x":3.0}, "experimental":{"y": {} }, "tasks":{}, "extensions":{}}"""
    assert bytes(modern_capabilities(msgspec.Raw(declared), NEWEST)) == (
        b'{"elicitation":{ "form":{}, "url":{}, "voice":1.00 },"sampling":{"tools":{}, "x":2.0},'
        b'"roots":{"x":3.0},"experimental":{"y": {} }}'
    )


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2025-03-26", {"sampling": {"x": 1}}),
        ("2025-06-18", {"elicitation": {"x": 1}, "sampling": {"x": 1}}),
    ],
)
def test_what_its_revision_does_not_know_a_legacy_client_does_not_declare(
    version: str, expected: object
) -> None:
    declared = {
        "elicitation": {"url": {}, "x": 1},
        "sampling": {"tools": {}, "context": {}, "x": 1},
        "roots": None,
    }
    assert json.loads(bytes(modern_capabilities(_raw(declared), REVISIONS[version]))) == expected


@pytest.mark.parametrize(
    "declared", [None, msgspec.Raw(b"{}"), msgspec.Raw(b"[]"), msgspec.Raw(b'{"roots":1}')]
)
def test_a_client_that_declares_nothing_declares_an_empty_object(declared: msgspec.Raw | None) -> None:
    """MCP 2026-07-28, basic: the capabilities are required."""
    assert bytes(modern_capabilities(declared, NEWEST)) == b"{}"


@given(value=json_values, version=st.sampled_from(sorted(REVISIONS)))
def test_whatever_is_declared_a_question_is_put_to_a_modern_client_only_if_it_takes_it(
    value: bytes, version: str
) -> None:
    """A legacy client's declaration says the same in both eras, for what a modern server may know."""
    declared = msgspec.Raw(b'{"elicitation":%b,"sampling":{"tools":%b},"roots":%b}' % (value, value, value))
    legacy = read_legacy(declared, REVISIONS[version])
    modern = read_modern(modern_capabilities(declared, REVISIONS[version]))
    assert dataclasses.replace(legacy, sampling_context=False) == dataclasses.replace(
        modern, sampling_context=False
    )
