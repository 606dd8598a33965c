"""The form of a key."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.auth.keys import (
    ALPHABET,
    KEY_PREFIX,
    KeyRecord,
    NewKey,
    hash_of,
    is_well_formed,
    looks_like_key,
    new_key,
    principal_problem,
)

KEY = new_key().text


def test_a_key_has_the_form_that_secret_scanners_are_told() -> None:
    """Ours: docs/keys.md."""
    for _ in range(50):
        assert re.fullmatch(r"stdiob_key_[0-9A-Za-z]{49}", new_key().text)


def test_the_checksum_of_a_known_key() -> None:
    """Ours, for good: keys that are in use must stay well-formed."""
    assert is_well_formed("stdiob_key_" + "0" * 42 + "1" + "3r4W07")


def test_no_two_keys_are_alike() -> None:
    keys = [new_key() for _ in range(1000)]
    assert len({key.text for key in keys}) == 1000
    assert len({key.id for key in keys}) == 1000
    assert not any(key.id in key.text for key in keys)


def test_a_new_key_does_not_show_its_text() -> None:
    key = new_key()
    assert key.id in repr(key)
    assert key.text not in repr(key)
    assert key.text not in f"{key}"


@given(position=st.integers(0, len(KEY) - 1), character=st.sampled_from(ALPHABET))
def test_a_typo_in_any_place_is_noticed(position: int, character: str) -> None:
    typo = KEY[:position] + character + KEY[position + 1 :]
    assert is_well_formed(typo) == (typo == KEY)


@given(position=st.integers(len(KEY_PREFIX), len(KEY) - 2))
def test_two_characters_in_the_wrong_order_are_noticed(position: int) -> None:
    typo = KEY[:position] + KEY[position + 1] + KEY[position] + KEY[position + 2 :]
    assert is_well_formed(typo) == (typo == KEY)


@given(text=st.text(max_size=80))
def test_other_text_is_no_key(text: str) -> None:
    assert not is_well_formed(text)
    assert not is_well_formed(KEY + text[:1]) or not text
    assert looks_like_key(f"{text}{KEY}")


def test_a_key_is_kept_as_its_sha_256() -> None:
    assert hash_of(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("name", ["alice", "a", "A1", "alice@example.org", "ci+deploy", "a_b-c.d", "a" * 128])
def test_the_name_of_a_principal_may_be(name: str) -> None:
    assert principal_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", " alice", "alice ", "a b", "../x", "a/b", ".hidden", "-rf", "a\n", "a\0", "zoë", "a" * 129]
)
def test_the_name_of_a_principal_may_not_be(name: str) -> None:
    """Ours: it becomes a part of environment values, file names and log lines."""
    assert "expected 1 to 128" in str(principal_problem(name))


@pytest.mark.parametrize(
    ("expires_at", "revoked_at", "live"),
    [
        (None, None, True),
        (101.0, None, True),
        (100.0, None, False),
        (None, 1.0, False),
        (200.0, 300.0, False),
    ],
)
def test_a_key_is_live_if_it_is_neither_revoked_nor_expired(
    expires_at: float | None, revoked_at: float | None, *, live: bool
) -> None:
    record = KeyRecord(
        id="id",
        hash="secret-hash",
        principal="alice",
        servers=None,
        created_at=0.0,
        expires_at=expires_at,
        revoked_at=revoked_at,
        note="",
    )
    assert record.is_live(100.0) is live
    assert "secret-hash" not in repr(record)


def test_a_key_can_be_made_by_hand() -> None:
    assert NewKey("id", "text") == NewKey("id", "text")
