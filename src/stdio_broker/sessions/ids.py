"""Session ids that name their owner: `<node incarnation>-<random>-<mac>`.

Any node or load balancer can tell from the id alone whose session it is, without a directory, and
a node can tell a made-up id from an ended one without a table. At most 64 characters of
`[A-Za-z0-9-]`; 128 bits are random (MCP 2025-11-25, basic/transports, "Session Management").
Source: design decision 7.
"""

import hashlib
import hmac
import secrets

__all__ = ["SessionIds"]

_INCARNATION_BYTES = 4
_RANDOM_BYTES = 16
_MAC_CHARS = 20  # 80 bits: guessing one takes longer than any incarnation lives


class SessionIds:
    """Mint and recognise the ids of one node's life.

    Args:
        key: Secret of the MAC; None makes one, so that ids of an earlier life are unknown.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self.incarnation = secrets.token_hex(_INCARNATION_BYTES)

    def mint(self) -> str:
        """Return a new id."""
        name = f"{self.incarnation}-{secrets.token_hex(_RANDOM_BYTES)}"
        return f"{name}-{self._mac(name)}"

    def is_ours(self, session_id: str) -> bool:
        """Whether this node minted the id, in this life."""
        name, _, mac = session_id.rpartition("-")
        return (
            session_id.isascii()
            and name.startswith(f"{self.incarnation}-")
            and hmac.compare_digest(mac, self._mac(name))
        )

    def _mac(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:_MAC_CHARS]
