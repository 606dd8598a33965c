"""Which revisions there are, and what is asked of a child."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.protocol.revisions import (
    KNOWN_VERSIONS,
    LATEST,
    MODERN,
    MODERN_VERSION,
    MODERN_VERSIONS,
    REVISIONS,
    SUPPORTED_VERSIONS,
    Revision,
    clamp,
    offered,
)

ALL = (*REVISIONS.values(), MODERN)


def test_every_revision_with_sessions_is_spoken_oldest_first() -> None:
    assert KNOWN_VERSIONS == ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
    assert LATEST == "2025-11-25"
    assert all(name == revision.version for name, revision in REVISIONS.items())


def test_only_2025_03_26_has_batches() -> None:
    """MCP 2025-03-26, basic, "Batching", which 2025-06-18 removed; 2024-11-05 says nothing of it."""
    assert [revision.version for revision in REVISIONS.values() if revision.batches] == ["2025-03-26"]


def _since(flag: str) -> list[str]:
    return [revision.version for revision in ALL if getattr(revision, flag)]


def test_what_a_revision_has_is_what_its_key_changes_say() -> None:
    """The "Key Changes" pages of 2025-06-18 and 2025-11-25, and the changelog of 2026-07-28."""
    assert _since("elicitation") == ["2025-06-18", "2025-11-25", "2026-07-28"]
    assert _since("completion_context") == ["2025-06-18", "2025-11-25", "2026-07-28"]
    assert _since("url_elicitation") == ["2025-11-25", "2026-07-28"]
    assert _since("sampling_tools") == ["2025-11-25", "2026-07-28"]


def test_only_2025_11_25_begins_its_streams_with_an_empty_event() -> None:
    """MCP 2025-11-25, basic/transports (SEP-1699); 2026-07-28 has no resumption."""
    assert _since("priming") == ["2025-11-25"]


def test_a_revision_that_is_named_only_has_none_of_it() -> None:
    """Ours: what is new in a revision must be claimed."""
    assert Revision(version="2024-11-05") == REVISIONS["2024-11-05"]


def test_what_a_client_may_name_is_told_newest_first() -> None:
    """MCP 2026-07-28, basic/versioning: a refusal lists what is supported; ours: in this order."""
    assert SUPPORTED_VERSIONS == ("2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
    assert MODERN_VERSIONS == (MODERN.version,) == (MODERN_VERSION,)


@given(versions=st.lists(st.one_of(st.sampled_from(SUPPORTED_VERSIONS), st.text(max_size=3))))
def test_a_client_is_offered_what_the_child_speaks_and_we_too(versions: list[str]) -> None:
    """peers.md, 1, field bug (a): what a client chooses must not be refused by our HTTP side."""
    assert offered(versions) == tuple(version for version in versions if version in SUPPORTED_VERSIONS)


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_a_version_that_we_speak_is_asked_for_as_it_is(version: str) -> None:
    assert clamp(version) == version


@given(version=st.one_of(st.none(), st.just(MODERN_VERSION), st.text()))
def test_any_other_version_becomes_the_newest_that_we_know(version: str | None) -> None:
    """MCP 2025-11-25, basic/lifecycle, "Version Negotiation"."""
    if version not in KNOWN_VERSIONS:
        assert clamp(version) == LATEST
