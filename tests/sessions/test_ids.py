"""Session ids that name their owner."""

from __future__ import annotations

import re

import pytest

from stdio_broker.sessions import SessionIds


def test_an_id_has_the_form_that_every_client_and_balancer_can_carry() -> None:
    """design.md, 6.7: `<node incarnation>-<random>-<mac>`, `[A-Za-z0-9-]`, at most 64 characters."""
    ids = SessionIds()
    session_id = ids.mint()
    assert re.fullmatch(r"[A-Za-z0-9]+-[A-Za-z0-9]+-[A-Za-z0-9]+", session_id)
    assert len(session_id) <= 64
    assert session_id.startswith(f"{ids.incarnation}-")


def test_ids_are_unguessable() -> None:
    """2025-11-25, transports: globally unique and secure; protocol.md, 7: at least 128 bits random."""
    minted = [SessionIds().mint() for _ in range(50)] + [SessionIds(b"key").mint() for _ in range(50)]
    randoms = {session_id.split("-")[1] for session_id in minted}
    assert len(randoms) == 100
    assert all(len(bytes.fromhex(part)) >= 16 for part in randoms)


def test_a_node_recognises_its_own_ids() -> None:
    """design.md, 6.7: without a table, so also those of sessions that have ended."""
    ids = SessionIds()
    assert ids.is_ours(ids.mint())


def test_ids_of_another_life_or_node_are_not_ours() -> None:
    """design.md, 6.7: the incarnation, not the machine, owns a session; even with the same key."""
    assert not SessionIds(b"key").is_ours(SessionIds(b"key").mint())
    assert not SessionIds().is_ours(SessionIds().mint())


@pytest.mark.parametrize("change", range(10))
def test_a_changed_id_is_not_ours(change: int) -> None:
    """design.md, 6.7: the MAC covers every character."""
    ids = SessionIds()
    minted = ids.mint()
    position = change * (len(minted) - 1) // 9
    other = "0" if minted[position] != "0" else "1"
    assert not ids.is_ours(minted[:position] + other + minted[position + 1 :])


@pytest.mark.parametrize("text", ["", "-", "--", "é", "x" * 1000, "a-b-c", "../..", "\0"])
def test_nonsense_is_not_ours(text: str) -> None:
    """Ours: whatever a client sends in the header gets here."""
    ids = SessionIds()
    assert not ids.is_ours(text)
    assert not ids.is_ours(f"{ids.incarnation}-{text}")
