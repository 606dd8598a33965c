"""`requestState`: what we give a client to bring back, and believe only if it is ours.

A state is encrypted and authenticated under a key of this process, and bound to whose it is and to
the request that it was given for: with another principal, another tool or other arguments it does
not open. Every way to fail looks the same.

Source: MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements" 4 and 5.
"""

import base64
import binascii
import hashlib
import secrets

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ..errors import LocalProtocolError
from ..protocol.jsonrpc import INVALID_PARAMS
from ..protocol.modern import ModernRequest, digest_input

__all__ = ["Claims", "Seal", "digest", "invalid_state"]

_NONCE_BYTES = 12

#: Longest state that is looked at. A server's own state travels within ours; more than this is no
#: state but a payload.
MAX_STATE_CHARS = 1024 * 1024


class Claims(msgspec.Struct, frozen=True, array_like=True):
    """What a state says.

    Attributes:
        child: Which child it was made for: its number in this process.
        expires: When it ends (event loop time, seconds).
        call: Unguessable name of the parked call that it resumes; "" if it resumes none.
        round: How often its call has asked, itself included.
        inner: The server's own state, or None.
    """

    child: int
    expires: float
    call: str = ""
    round: int = 0
    inner: str | None = None


_decoder = msgspec.json.Decoder(Claims)


class Seal:
    """Makes and opens states. One per process: after a restart none of the old ones opens.

    Args:
        key: 32 secret bytes; None makes some.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._cipher = ChaCha20Poly1305(key or secrets.token_bytes(32))

    def seal(self, claims: Claims, *, owner: bytes, request: ModernRequest | bytes) -> str:
        """Return a state that only this owner can bring back, and only with this request.

        Args:
            claims: What it says.
            owner: Whose it is; any bytes that tell principals (and servers) apart.
            request: What it was given for, or its `digest`.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, msgspec.json.encode(claims), _binding(owner, request))
        return base64.urlsafe_b64encode(nonce + sealed).decode().rstrip("=")

    def open(self, state: str, *, owner: bytes, request: ModernRequest, now: float) -> Claims:
        """Return what a state says.

        Raises:
            LocalProtocolError: It is not ours, somebody else's, for another request, or too old; all
                look alike.
        """
        try:
            if len(state) > MAX_STATE_CHARS:
                raise invalid_state(request)
            data = base64.b64decode(state + "=" * (-len(state) % 4), altchars=b"-_", validate=True)
            opened = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _binding(owner, request))
        except (InvalidTag, binascii.Error, ValueError):
            raise invalid_state(request) from None
        claims = _decoder.decode(opened)
        if claims.expires <= now:
            raise invalid_state(request)
        return claims


def digest(request: ModernRequest) -> bytes:
    """Return what a state knows of its request: method, name and arguments count, id and the rest do not."""
    return hashlib.sha256(digest_input(request)).digest()


def invalid_state(request: ModernRequest) -> LocalProtocolError:
    """Return the one answer to every state that cannot be used."""
    return LocalProtocolError(
        "Invalid or expired requestState: send the request again without it",
        code=INVALID_PARAMS,
        request_id=request.id,
    )


def _binding(owner: bytes, request: ModernRequest | bytes) -> bytes:
    subject = request if isinstance(request, bytes) else digest(request)
    # Hashed apart, so that no owner can be chosen that makes two pairs look alike.
    return hashlib.sha256(owner).digest() + subject
