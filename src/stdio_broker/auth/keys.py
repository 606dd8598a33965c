"""Bearer keys: how one is made, what is kept of it, and how a typo is told from a key.

    stdiob_key_  43 characters (32 random bytes, base 62)  6 characters (CRC-32 of all before them, base 62)

A secret scanner finds a key by its prefix, and knows by the checksum that it is one. The broker keeps the
SHA-256 of it only: with 256 random bits nothing can be guessed, so a slow hash would protect nothing. The
checksum is for people on the command line; over HTTP a typo looks like any other bad key.
"""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "KEY_ISSUER",
    "KEY_PREFIX",
    "KeyRecord",
    "KeySource",
    "LiveKeys",
    "NewKey",
    "hash_of",
    "is_well_formed",
    "looks_like_key",
    "new_key",
    "principal_problem",
]

#: Who vouches for a principal that proves itself by a key: whoever made the key.
KEY_ISSUER = "keys"

KEY_PREFIX = "stdiob_key_"

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

SECRET_BYTES = 32
SECRET_CHARS = 43  # 62**43 > 2**256
CHECKSUM_CHARS = 6  # 62**6 > 2**32
ID_CHARS = 12

_KEY = re.compile(
    f"{KEY_PREFIX}[0-9A-Za-z]{{{SECRET_CHARS + CHECKSUM_CHARS}}}",
)

# It becomes a part of environment values, file names and log lines of the operator's.
_PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. The only place where its text is.

    Attributes:
        id: Its public name.
        text: The key itself; to be shown once.
    """

    id: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is kept of a key. Times are seconds since the epoch.

    Attributes:
        id: Its public name.
        hash: SHA-256 of its text, in hexadecimal.
        principal: Whose it is: the subject; the issuer is `KEY_ISSUER`.
        servers: Names of the servers that it may use; None: every server.
        created_at: When it was made.
        expires_at: When it ends to be good; None: never.
        revoked_at: When it was revoked; None: it was not.
        note: What the operator wants to remember of it.
    """

    id: str
    hash: str = field(repr=False)
    principal: str
    servers: frozenset[str] | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    note: str

    def is_live(self, now: float) -> bool:
        """Return whether the key is good at a time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class LiveKeys:
    """All keys that are good.

    Attributes:
        revision: Count of the changes to all keys that these contain; maybe some later ones, too.
        records: The keys, in no order.
    """

    revision: int
    records: tuple[KeyRecord, ...]


class KeySource(Protocol):
    """Where the keys are."""

    async def revision(self) -> int:
        """Return the count of changes to the keys so far. Cheap.

        Raises:
            StorageError: It cannot be had.
        """

    async def live(self) -> LiveKeys:
        """Return all keys that are good now.

        Raises:
            StorageError: They cannot be had.
        """


def new_key() -> NewKey:
    """Return a key that nobody else has."""
    number = int.from_bytes(secrets.token_bytes(SECRET_BYTES), "big")
    body = KEY_PREFIX + _base62(number, SECRET_CHARS)
    return NewKey(_new_id(), body + _checksum(body))


def hash_of(key: bytes) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key).hexdigest()


def looks_like_key(text: str) -> bool:
    """Return whether a text is meant to be a key, or a part of one."""
    return KEY_PREFIX in text


def is_well_formed(text: str) -> bool:
    """Return whether a text can be a key; False after a typo."""
    return _KEY.fullmatch(text) is not None and _checksum(text[:-CHECKSUM_CHARS]) == text[-CHECKSUM_CHARS:]


def principal_problem(name: str) -> str | None:
    """Return what is wrong with the name of a principal, if anything."""
    if _PRINCIPAL.fullmatch(name):
        return None
    return (
        "expected 1 to 128 letters, digits and . _ @ + -, the first one a letter or digit, "
        f"found {name[:200]!r}"
    )


def _new_id() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_CHARS))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), CHECKSUM_CHARS)


def _base62(number: int, width: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits.rjust(width, ALPHABET[0])
