"""Which revisions there are, and what is asked of a child."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.protocol.revisions import KNOWN_VERSIONS, LATEST, MODERN_VERSION, REVISIONS, clamp


def test_every_revision_with_sessions_is_spoken_oldest_first() -> None:
    assert KNOWN_VERSIONS == ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
    assert LATEST == "2025-11-25"
    assert all(name == revision.version for name, revision in REVISIONS.items())


def test_only_2025_03_26_has_batches() -> None:
    """MCP 2025-03-26, basic, "Batching", which 2025-06-18 removed; 2024-11-05 says nothing of it."""
    assert [revision.version for revision in REVISIONS.values() if revision.batches] == ["2025-03-26"]


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_a_version_that_we_speak_is_asked_for_as_it_is(version: str) -> None:
    assert clamp(version) == version


@given(version=st.one_of(st.none(), st.just(MODERN_VERSION), st.text()))
def test_any_other_version_becomes_the_newest_that_we_know(version: str | None) -> None:
    """MCP 2025-11-25, basic/lifecycle, "Version Negotiation"."""
    if version not in KNOWN_VERSIONS:
        assert clamp(version) == LATEST
